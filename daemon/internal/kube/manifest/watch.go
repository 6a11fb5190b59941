// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// How changes are gathered. An event is acted on when quiet has passed without another, at latest after patience; a
// file that is being written is looked at again after retry; and every poll all files are looked at, for directories
// whose events do not reach us (network file systems, a link that changes further up).
const (
	quiet    = 4 * time.Millisecond
	patience = 20 * time.Millisecond
	retry    = 5 * time.Millisecond
	poll     = 5 * time.Second
)

// Run watches the directory until the context ends, and then returns nil.
func (s *Source) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch manifest directory %q: %w", s.dir, err)
	}
	defer watcher.Close()
	w := watch{Source: s, watcher: watcher, watched: map[string]fs.FileInfo{}, touched: map[string]bool{}}
	w.timer = time.NewTimer(0) // at once: for what changed between Open and the watch
	defer w.timer.Stop()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-watcher.Events:
			w.gather(event.Name)
		case err := <-watcher.Errors:
			s.logger.Warn("watch manifests; all files are read again", "err", err)
			w.touchAll()
		case <-w.timer.C:
			w.look()
		case <-ticker.C:
			w.look()
		}
	}
}

// watch is the state of one Run.
type watch struct {
	*Source
	watcher *fsnotify.Watcher
	watched map[string]fs.FileInfo // the directories as they were when they were added
	touched map[string]bool        // files with events that were not looked at yet
	since   time.Time              // of the first event that was not looked at yet
	timer   *time.Timer
}

// gather notes an event and puts off the look.
func (w *watch) gather(path string) {
	rel, err := filepath.Rel(w.dir, path)
	if err != nil || !filepath.IsLocal(rel) {
		return // a neighbour of the directory
	}
	if isManifest(rel) {
		w.touched[rel] = true
	}
	if w.since.IsZero() {
		w.since = time.Now()
	}
	w.timer.Reset(min(quiet, max(0, patience-time.Since(w.since))))
}

func (w *watch) touchAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for path := range w.files {
		w.touched[path] = true
	}
	w.timer.Reset(0)
}

// look reads what changed, and tells.
func (w *watch) look() {
	w.follow()
	changed, busy := w.reload(w.touched)
	clear(w.touched)
	w.since = time.Time{}
	if len(busy) > 0 {
		for _, path := range busy {
			w.touched[path] = true
		}
		w.timer.Reset(retry)
	}
	if changed {
		w.notify()
	}
}

// follow watches the directories that bear the names now: one may have been removed and made again, or be a link that
// points elsewhere since. The parent tells when that happens.
func (w *watch) follow() {
	alive := w.watcher.WatchList() // the kernel drops the watch of a removed directory, and its inode may come again
	for _, dir := range []string{filepath.Dir(w.dir), w.dir, filepath.Join(w.dir, controllerDir)} {
		info, err := os.Stat(dir)
		if old, ok := w.watched[dir]; ok {
			if err == nil && os.SameFile(old, info) && slices.Contains(alive, dir) {
				continue
			}
			delete(w.watched, dir)
			_ = w.watcher.Remove(dir) // it is gone already if the directory is
		}
		if err != nil {
			continue // no such directory now: its parent's events or the next poll will tell
		}
		if err := w.watcher.Add(dir); err != nil {
			w.logger.Warn("watch manifest directory; it is polled instead", "dir", dir, "interval", poll, "err", err)
			continue
		}
		w.watched[dir] = info
	}
}
