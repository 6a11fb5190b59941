// SPDX-License-Identifier: Apache-2.0

// Package manifest owns a directory of YAML and JSON files that stands in for an API server: it reads and watches the
// objects in it, and stores what the controller writes. It must not judge what the objects mean; package kube does.
//
// Users write files into the directory itself. The controller writes into its subdirectory "controller", one object a
// file, and never touches a user's file: a Service's status lies in a file of its own and is merged onto the user's
// Service, as if by the API's status subresource.
package manifest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// controllerDir is the controller's place in the directory.
const controllerDir = "controller"

// openFor is how long a file that somebody has open for writing may stay unread after its last change.
const openFor = time.Second

// Source is a directory of manifests. Its methods may be called at the same time.
type Source struct {
	dir    string
	logger *slog.Logger
	notify func()

	mu sync.Mutex
	// Guarded by mu.
	files   map[string]*file // by path relative to dir
	unread  error            // why the directory could not be listed the last time
	objects kube.Objects     // what files give, unless stale
	stale   bool
}

// file is what is known of one file.
type file struct {
	info    fs.FileInfo       // when it was read
	sum     [sha256.Size]byte // of what was read
	objects []kube.Object     // of the last version that could be used
	issues  []lb.Issue        // of that version
	refused []lb.Issue        // why the present version is not in force; empty if it is
}

// Open reads the directory once. A file that cannot be used is no error, but an issue in Objects. While Run runs, it
// calls notify after each change of Objects that did not come through the Writer; notify must not block.
func Open(dir string, logger *slog.Logger, notify func()) (*Source, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("open manifest directory %q: %w: create it, or name another", dir, err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("open manifest directory %q: it is no directory: name the directory of the files", dir)
	}
	s := &Source{dir: filepath.Clean(dir), logger: logger, notify: notify, files: map[string]*file{}}
	s.reload(nil)
	if s.unread != nil {
		return nil, fmt.Errorf("open manifest directory %q: %w", dir, s.unread)
	}
	return s, nil
}

// Objects gives what the files hold now, the Writer's last write included.
func (s *Source) Objects() kube.Objects {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stale {
		s.objects = merge(s.files)
		if s.unread != nil {
			s.objects.Issues = append(s.objects.Issues, lb.Issue{
				Object: "Directory " + s.dir, Reason: reasonUnreadable,
				Message: fmt.Sprintf("%v: what was read before stays in force: bring the directory back", s.unread),
			})
		}
		s.stale = false
	}
	return s.objects
}

// reload looks at every file, and reads those that look different from when they were read, and those in touched. It
// tells whether anything changed, and which files are being written and have to be looked at again.
func (s *Source) reload(touched map[string]bool) (changed bool, busy []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	infos, err := list(s.dir)
	if (err == nil) != (s.unread == nil) {
		changed = true
	}
	s.unread = err
	if err == nil {
		for path := range s.files {
			if _, ok := infos[path]; !ok {
				delete(s.files, path)
				changed = true
			}
		}
		for path, info := range infos {
			old := s.files[path]
			if old != nil && !touched[path] && sameVersion(old.info, info) {
				continue
			}
			next, err := s.read(path, old)
			switch {
			case errors.Is(err, errBusy):
				busy = append(busy, path)
			case errors.Is(err, fs.ErrNotExist):
				changed = changed || old != nil
				delete(s.files, path)
			default:
				changed = changed || old == nil || next.sum != old.sum || len(next.refused) != len(old.refused)
				s.files[path] = next
			}
		}
	}
	s.stale = s.stale || changed
	return changed, busy
}

// sameVersion tells whether a file is, by its looks, the one that was read. Writers that keep inode, size and time of a
// file alike within a tick of the kernel's clock are noticed by the event, not here.
func sameVersion(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// list gives the manifests of the directory and of the controller's, following symbolic links.
func list(dir string) (map[string]fs.FileInfo, error) {
	infos := map[string]fs.FileInfo{}
	for _, sub := range []string{"", controllerDir} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if errors.Is(err, fs.ErrNotExist) && sub != "" {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			path := filepath.Join(sub, entry.Name())
			if !isManifest(path) {
				continue
			}
			info, err := os.Stat(filepath.Join(dir, path))
			if err == nil && info.Mode().IsRegular() {
				infos[path] = info
			}
		}
	}
	return infos, nil
}

// isManifest tells whether a file is ours to read. Names with a leading dot belong to editors, to mounted ConfigMaps
// and to the Writer's unfinished files.
func isManifest(path string) bool {
	name := filepath.Base(path)
	return !strings.HasPrefix(name, ".") && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name))
}

// errBusy says that a file is being written.
var errBusy = errors.New("file is open for writing")

// read reads one file. What was in force before stays so if the new version cannot be used. The error is errBusy or
// fs.ErrNotExist.
func (s *Source) read(path string, old *file) (*file, error) {
	f, err := os.Open(filepath.Join(s.dir, path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return refuse(path, &file{}, old, err), nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return refuse(path, &file{}, old, err), nil
	}
	if age := time.Since(info.ModTime()); age >= 0 && age < openFor && isBeingWritten(f) {
		return nil, errBusy
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return refuse(path, &file{info: info}, old, err), nil
	}
	return parse(path, info, data, old), nil
}

// learn reads a file that the Writer wrote.
func (s *Source) learn(path string) error {
	data, err := os.ReadFile(filepath.Join(s.dir, path))
	if err != nil {
		return fmt.Errorf("read back %s: %w", path, err)
	}
	info, err := os.Stat(filepath.Join(s.dir, path))
	if err != nil {
		return fmt.Errorf("read back %s: %w", path, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = parse(path, info, data, s.files[path])
	s.stale = true
	return nil
}

// forget drops a file that the Writer removed.
func (s *Source) forget(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.files, path)
	s.stale = true
}

// parse makes a file of what was read. A file that holds nothing after it held something is taken as half written: who
// wants to remove objects removes the file or the document.
func parse(path string, info fs.FileInfo, data []byte, old *file) *file {
	next := &file{info: info, sum: sha256.Sum256(data)}
	var refused []error
	next.objects, next.issues, refused = decode(path, data)
	if len(refused) == 0 && len(next.objects) == 0 && len(next.issues) == 0 && old != nil && len(old.objects) > 0 {
		refused = append(refused, errors.New("the file is empty"))
	}
	if len(refused) == 0 {
		return next
	}
	return refuse(path, next, old, refused...)
}

// refuse keeps the last version in force. Without one, the documents that could be read are better than nothing.
func refuse(path string, next, old *file, why ...error) *file {
	remedy := "what can be read of the file is used: correct the file"
	if old != nil && len(old.objects) > 0 {
		next.objects, next.issues = old.objects, old.issues
		remedy = "the last good version of the file stays in force: correct the file, or remove it"
	}
	if next.info == nil && old != nil {
		next.info = old.info
	}
	for _, err := range why {
		next.refused = append(next.refused, lb.Issue{
			Object: "File " + path, Reason: reasonInvalid, Message: fmt.Sprintf("%v: %s", err, remedy),
		})
	}
	return next
}
