// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/sluice-lb/sluice/daemon/api"
)

// Run keeps the set in line with the spool directory and the network namespaces, until the context ends. Without
// inotify it goes on with the periodic check alone.
func (s *Set) Run(ctx context.Context) error {
	var events <-chan fsnotify.Event
	var failures <-chan error
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		s.opts.Logger.Warn("changes are seen late, because inotify is not usable", "interval", s.opts.Interval, "err", err)
	} else {
		defer watcher.Close()
		events, failures = watcher.Events, watcher.Errors
	}
	ticker := time.NewTicker(s.opts.Interval)
	defer ticker.Stop()

	// Watch first, then check: what changed since Open is in the check, and what changes from here on is an event.
	s.watch(watcher)
	s.check()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			s.watch(watcher) // a directory that was made anew needs a new watch
			s.check()
		case <-s.wake:
			s.watch(watcher)
		case event := <-events:
			s.handle(event)
		case err := <-failures:
			// Above all the queue's overflow: events are lost, so look at everything.
			s.opts.Logger.Warn("file events were lost", "err", err)
			s.check()
		}
	}
}

// check looks at everything.
func (s *Set) check() {
	err := s.change(s.scan)
	if err != nil {
		s.opts.Logger.Warn("attachments are not checked", "err", err)
	}
}

// watch makes sure that the spool directory and every directory of named namespaces is watched. Watching a directory
// again changes nothing.
func (s *Set) watch(watcher *fsnotify.Watcher) {
	if watcher == nil {
		return
	}
	dirs := map[string]bool{s.opts.Dir: true}
	for _, a := range s.Snapshot() {
		if !inProc(a.Netns) {
			dirs[filepath.Dir(a.Netns)] = true
		}
	}
	for dir := range dirs {
		if err := watcher.Add(dir); err != nil {
			s.opts.Logger.Warn("changes are seen late in one directory", "dir", dir, "interval", s.opts.Interval, "err", err)
		}
	}
}

// handle looks at what one event is about: a spool file, or a namespace's name.
func (s *Set) handle(event fsnotify.Event) {
	if event.Op == fsnotify.Chmod {
		return
	}
	var keys []api.Key
	if filepath.Dir(event.Name) == filepath.Clean(s.opts.Dir) {
		if k, ok := api.ParseSpoolName(filepath.Base(event.Name)); ok {
			keys = append(keys, k)
		}
	}
	for _, a := range s.Snapshot() {
		if filepath.Clean(a.Netns) == event.Name {
			keys = append(keys, a.Key())
		}
	}
	_ = s.change(func() (bool, error) {
		changed := false
		for _, k := range keys {
			changed = s.follow(k) || changed
		}
		return changed, nil
	})
}
