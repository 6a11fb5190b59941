// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// running is a Source whose Run runs.
type running struct {
	*Source
	notified chan struct{}
}

// mustRun starts a source on a directory, and waits until it watches.
func mustRun(t *testing.T, dir string) running {
	t.Helper()
	notified := make(chan struct{}, 1)
	s, err := Open(dir, slog.New(slog.DiscardHandler), func() {
		select {
		case notified <- struct{}{}:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return running{s, notified}
}

// await waits until the objects are as described, and tells how long it took. The poll is slower than the deadline: an
// event must have come.
func (r running) await(t *testing.T, want string) time.Duration {
	t.Helper()
	start := time.Now()
	deadline := time.After(poll * 3 / 5)
	for {
		got := describe(r.Objects())
		if got == want {
			return time.Since(start)
		}
		select {
		case <-r.notified:
		case <-deadline:
			t.Fatalf("no such objects: got %q, want %q", got, want)
		}
	}
}

func mustRename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func mustSymlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path+".new"); err != nil {
		t.Fatal(err)
	}
	mustRename(t, path+".new", path)
}

func TestChangesAreSeen(t *testing.T) {
	tests := map[string]func(t *testing.T, dir string){
		"written over": func(t *testing.T, dir string) { mustWrite(t, dir, "a.yaml", service("a", 2)) },
		"renamed over, as editors do": func(t *testing.T, dir string) {
			mustWrite(t, dir, ".a.yaml.swp", service("a", 2))
			mustRename(t, filepath.Join(dir, ".a.yaml.swp"), filepath.Join(dir, "a.yaml"))
		},
		"moved away, and written anew": func(t *testing.T, dir string) {
			mustRename(t, filepath.Join(dir, "a.yaml"), filepath.Join(dir, "a.yaml~"))
			mustWrite(t, dir, "a.yaml", service("a", 2))
		},
		"directory removed and made again": func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			mustWrite(t, dir, "a.yaml", service("a", 2))
		},
		"directory exchanged": func(t *testing.T, dir string) {
			mustWrite(t, dir+".new", "a.yaml", service("a", 2))
			mustRename(t, dir, dir+".old")
			mustRename(t, dir+".new", dir)
		},
		"written by a slow writer": func(t *testing.T, dir string) {
			f, err := os.Create(filepath.Join(dir, "a.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for line := range strings.Lines(service("a", 2)) {
				<-time.After(2 * patience)
				if _, err := f.WriteString(line); err != nil {
					t.Fatal(err)
				}
			}
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "manifests")
			mustWrite(t, dir, "a.yaml", service("a", 1))
			r := mustRun(t, dir)
			mustWrite(t, dir, "b.yaml", service("b", 1))
			r.await(t, "default/a:1 default/b:1") // it watches
			if err := os.Remove(filepath.Join(dir, "b.yaml")); err != nil {
				t.Fatal(err)
			}
			r.await(t, "default/a:1")
			change(t, dir)
			r.await(t, "default/a:2")
			// And the next change of the same place, too.
			mustWrite(t, dir, "a.yaml", service("a", 3))
			r.await(t, "default/a:3")
		})
	}
}

// TestLinksAreFollowed exchanges the links that a mounted ConfigMap is made of, and a link to the directory.
func TestLinksAreFollowed(t *testing.T) {
	root := t.TempDir()
	mount := filepath.Join(root, "mount")
	mustWrite(t, mount, "..v1/a.yaml", service("a", 1))
	mustWrite(t, mount, "..v2/a.yaml", service("a", 2))
	mustSymlink(t, "..v1", filepath.Join(mount, "..data"))
	mustSymlink(t, "..data/a.yaml", filepath.Join(mount, "a.yaml"))
	link := filepath.Join(root, "link")
	mustSymlink(t, mount, link)
	r := mustRun(t, link)
	mustWrite(t, mount, "b.yaml", service("b", 1))
	r.await(t, "default/a:1 default/b:1")

	mustSymlink(t, "..v2", filepath.Join(mount, "..data"))
	r.await(t, "default/a:2 default/b:1")

	mustWrite(t, root, "other/a.yaml", service("a", 3))
	mustSymlink(t, filepath.Join(root, "other"), link)
	r.await(t, "default/a:3")
	mustWrite(t, root, "other/a.yaml", service("a", 4))
	r.await(t, "default/a:4")
}

func TestControllersDirectoryIsWatchedWhenItComes(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir, "a.yaml", service("a", 1))
	reader := mustRun(t, dir)
	mustWrite(t, dir, "b.yaml", service("b", 1))
	reader.await(t, "default/a:1 default/b:1")

	w := mustOpen(t, dir).Writer()
	for _, name := range []string{"first", "second"} { // the second comes into a directory that is there
		if err := w.Create(t.Context(), claim(name, "x")); err != nil {
			t.Fatal(err)
		}
		want := map[string]int{"first": 1, "second": 2}[name]
		deadline := time.After(poll * 3 / 5)
		for len(reader.Objects().Leases) != want {
			select {
			case <-reader.notified:
			case <-deadline:
				t.Fatalf("claim %s is not seen", name)
			}
		}
	}
}

// TestNothingFlapsWhileAFileIsRewritten rewrites a file in place, over and over, and looks at every state in between.
func TestNothingFlapsWhileAFileIsRewritten(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir, "a.yaml", service("a", 1)+"---\n"+service("b", 1))
	r := mustRun(t, dir)
	for i := range 50 {
		mustWrite(t, dir, "a.yaml", service("a", i+2)+"---\n"+service("b", 1))
		select {
		case <-r.notified:
		case <-time.After(time.Duration(i%7) * time.Millisecond):
		}
		if o := r.Objects(); len(o.Services) != 2 || len(o.Issues) != 0 {
			t.Fatalf("rewrite %d: %s", i, describe(o))
		}
	}
	r.await(t, "default/a:51 default/b:1")
}

// TestChangeIsSeenAtOnce bounds the time from a write to the notification: it is part of every pod's way into service.
func TestChangeIsSeenAtOnce(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir, "a.yaml", service("a", 1))
	r := mustRun(t, dir)
	mustWrite(t, dir, "a.yaml", service("a", 2))
	r.await(t, "default/a:2")
	best := time.Hour
	for i := range 10 {
		mustWrite(t, dir, "a.yaml", service("a", 3+i%2))
		want := map[int]string{0: "default/a:3", 1: "default/a:4"}[i%2]
		best = min(best, r.await(t, want))
	}
	if best > patience {
		t.Errorf("the fastest of ten changes took %v, want at most %v", best, patience)
	}
	t.Logf("fastest %v", best)
}
