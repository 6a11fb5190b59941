// SPDX-License-Identifier: Apache-2.0

// Package attach owns the set of pod interfaces on this node. The spool directory is the truth: the plugin writes it,
// and the set follows it, with or without an announcement. The set forgets an attachment whose network namespace is
// gone. It must not touch pods, links or BPF.
package attach

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/sluice-lb/sluice/daemon/api"
)

// DefaultInterval is the time between two full checks of spool and namespaces. Most changes are seen at once, by
// inotify; the check finds the rest, such as the end of a process whose namespace has no name.
const DefaultInterval = 30 * time.Second

// halfWrittenAge is when a file that is still being written is taken for one that a killed plugin has left: the plugin
// gives up an ADD after ten seconds.
const halfWrittenAge = time.Minute

// Options are what a Set needs of its surroundings.
type Options struct {
	Dir      string        // spool directory; it is made if it is missing
	Logger   *slog.Logger  // for what is restored, forgotten or not readable
	Notify   func()        // called after each change, from any goroutine; it must not block; nil means nobody cares
	Interval time.Duration // between two full checks; 0 means DefaultInterval
}

// Set is the attachments of this node. Its methods may be called from any goroutine.
type Set struct {
	opts Options
	// wake tells Run that namespaces in a directory that it does not watch yet may have come.
	wake chan struct{}

	mu sync.Mutex
	// Under mu, as are the reads of spool files: so a file that was read is not yet removed when its content is stored.
	attachments map[api.Key]api.Attachment
	snapshot    []api.Attachment // sorted; replaced, never changed
	reported    map[api.Key]string
}

// Open restores the set from the spool directory. A file that cannot be used is logged once and left where it is: a
// newer agent may be able to read it, and the plugin's DEL removes it.
func Open(opts Options) (*Set, error) {
	if opts.Interval == 0 {
		opts.Interval = DefaultInterval
	}
	if opts.Notify == nil {
		opts.Notify = func() {}
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the spool directory: %w", err)
	}
	s := &Set{
		opts:        opts,
		wake:        make(chan struct{}, 1),
		attachments: map[api.Key]api.Attachment{},
		reported:    map[api.Key]string{},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.scan(); err != nil {
		return nil, err
	}
	s.publish()
	return s, nil
}

// Snapshot gives all attachments, sorted by key. The result is shared: callers must not change it.
func (s *Set) Snapshot() []api.Attachment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot
}

// Get gives the attachment with the key, and whether there is one.
func (s *Set) Get(k api.Key) (api.Attachment, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.attachments[k]
	return a, ok
}

// Put takes an announced attachment into the set. It must have been spooled before, because the set would lose it at
// the next restart otherwise. The error is an *api.Error.
func (s *Set) Put(a api.Attachment) error {
	if err := a.Validate(); err != nil {
		return &api.Error{Code: api.CodeInvalid, Msg: "attachment is not usable", Details: err.Error()}
	}
	return s.change(func() (bool, error) {
		spooled, err := api.ReadSpool(s.opts.Dir, a.Key())
		if errors.Is(err, fs.ErrNotExist) {
			return false, &api.Error{
				Code: api.CodeTryAgain,
				Msg: fmt.Sprintf("attachment %s is not in the spool directory %s: plugin and agent must share the host's %s",
					a.Key(), s.opts.Dir, api.RunDir),
			}
		}
		if err != nil {
			return false, &api.Error{Code: api.CodeInvalid, Msg: "attachment is not usable", Details: err.Error()}
		}
		if !reflect.DeepEqual(spooled, a) {
			return false, &api.Error{
				Code: api.CodeInvalid,
				Msg:  fmt.Sprintf("attachment %s is announced and spooled with different content", a.Key()),
			}
		}
		return s.store(a), nil
	})
}

// Remove forgets an attachment whose spool file the plugin has removed. A file that is there is of a later ADD: whoever calls may
// have waited for us in vain, and gone on. Removing what is unknown succeeds.
func (s *Set) Remove(k api.Key) error {
	return s.change(func() (bool, error) { return s.follow(k), nil })
}

// change runs a mutation under the lock, publishes its result, and tells who cares when the lock is free again.
func (s *Set) change(mutate func() (bool, error)) error {
	s.mu.Lock()
	changed, err := mutate()
	if changed {
		s.publish()
	}
	s.mu.Unlock()
	if !changed {
		return err
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	s.opts.Notify()
	return err
}

func (s *Set) publish() {
	s.snapshot = slices.SortedFunc(maps.Values(s.attachments), func(a, b api.Attachment) int {
		return cmp.Or(cmp.Compare(a.ContainerID, b.ContainerID), cmp.Compare(a.IfName, b.IfName))
	})
}

// scan brings the set in line with spool and namespaces. A directory that cannot be read changes nothing.
func (s *Set) scan() (bool, error) {
	entries, err := os.ReadDir(s.opts.Dir)
	if err != nil {
		return false, fmt.Errorf("read the spool directory: %w", err)
	}
	changed := false
	for _, entry := range entries {
		if k, ok := api.ParseSpoolName(entry.Name()); ok {
			changed = s.follow(k) || changed
		}
		if _, ok := api.ParseSpoolTemp(entry.Name()); ok {
			s.removeHalfWritten(entry)
		}
	}
	for k := range s.attachments {
		if _, err := os.Lstat(filepath.Join(s.opts.Dir, api.SpoolName(k))); errors.Is(err, fs.ErrNotExist) {
			changed = s.forget(k, "its spool file is gone") || changed
		}
	}
	return changed, nil
}

// removeHalfWritten removes what a plugin was writing when it was killed. DEL does so too, if it is ever called.
func (s *Set) removeHalfWritten(entry fs.DirEntry) {
	info, err := entry.Info()
	if err == nil && time.Since(info.ModTime()) < halfWrittenAge {
		return
	}
	if err == nil {
		err = os.Remove(filepath.Join(s.opts.Dir, entry.Name()))
	}
	switch {
	case err == nil:
		s.opts.Logger.Info("half-written spool file removed", "file", entry.Name())
	case !errors.Is(err, fs.ErrNotExist): // it was finished, or a DEL was faster
		s.opts.Logger.Warn("half-written spool file stays", "file", entry.Name(), "err", err)
	}
}

// follow brings one attachment in line with its spool file and its namespace.
func (s *Set) follow(k api.Key) bool {
	a, err := api.ReadSpool(s.opts.Dir, k)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.forget(k, "its spool file is gone")
	case err != nil:
		s.report(k, "spool file is not usable", err.Error())
		return false
	}
	alive, doubt := namespaceAlive(a)
	if !alive {
		if err := api.RemoveSpool(s.opts.Dir, k); err != nil {
			s.report(k, "spool file stays", err.Error())
		}
		return s.forget(k, "its network namespace is gone")
	}
	if doubt != "" {
		s.report(k, "network namespace is not visible, so its end will not be seen", doubt)
	} else {
		delete(s.reported, k)
	}
	return s.store(a)
}

func (s *Set) store(a api.Attachment) bool {
	old, known := s.attachments[a.Key()]
	if known && reflect.DeepEqual(old, a) {
		return false
	}
	s.attachments[a.Key()] = a
	s.opts.Logger.Info("attachment", "pod", a.Pod.String(), "ifname", a.IfName, "container", a.ContainerID,
		"addresses", a.Addresses, "mac", a.MAC.String(), "master", a.Master)
	return true
}

func (s *Set) forget(k api.Key, why string) bool {
	delete(s.reported, k)
	a, known := s.attachments[k]
	if !known {
		return false
	}
	delete(s.attachments, k)
	s.opts.Logger.Info("attachment forgotten", "pod", a.Pod.String(), "ifname", k.IfName, "container", k.ContainerID,
		"reason", why)
	return true
}

// report logs what is wrong with an attachment, once for each reason.
func (s *Set) report(k api.Key, msg, reason string) {
	if s.reported[k] == reason {
		return
	}
	s.reported[k] = reason
	s.opts.Logger.Warn(msg, "container", k.ContainerID, "ifname", k.IfName, "reason", reason)
}
