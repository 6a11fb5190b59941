// SPDX-License-Identifier: Apache-2.0

package install_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/daemon/internal/install"
)

func write(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// want fails unless dir holds the plugin with that content, executable, and nothing else.
func want(t *testing.T, dir, content string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != install.Name {
		t.Errorf("%s holds %v", dir, entries)
	}
	info, err := os.Lstat(filepath.Join(dir, install.Name))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o755 {
		t.Errorf("mode %v", info.Mode())
	}
	if got, err := os.ReadFile(filepath.Join(dir, install.Name)); err != nil || string(got) != content {
		t.Errorf("content %q, %v", got, err)
	}
}

func TestThePluginIsPutInPlace(t *testing.T) {
	for _, tt := range []struct {
		name    string
		before  func(t *testing.T, dir string)
		changed bool
	}{
		{"into an empty directory", func(*testing.T, string) {}, true},
		{"again", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "sluice"), "new", 0o755) }, false},
		{"over an older one", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "sluice"), "old", 0o755) }, true},
		{"over one that cannot run", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "sluice"), "new", 0o644) }, true},
		{"after an attempt that was killed", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, ".sluice.new"), "something longer than the plugin", 0o400)
		}, true},
		{"over a link to another place", func(t *testing.T, dir string) {
			elsewhere := filepath.Join(t.TempDir(), "sluice")
			write(t, elsewhere, "new", 0o755)
			if err := os.Symlink(elsewhere, filepath.Join(dir, "sluice")); err != nil {
				t.Fatal(err)
			}
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from, dir := filepath.Join(t.TempDir(), "plugin"), t.TempDir()
			write(t, from, "new", 0o644)
			tt.before(t, dir)
			old := unix.Umask(0o077)
			changed, err := install.Plugin(from, dir)
			unix.Umask(old)
			if err != nil || changed != tt.changed {
				t.Errorf("changed %v, %v", changed, err)
			}
			want(t, dir, "new")
		})
	}
}

func TestWhatHinderedTheInstallationIsSaid(t *testing.T) {
	from, dir := filepath.Join(t.TempDir(), "plugin"), t.TempDir()
	write(t, from, "new", 0o644)
	blocked := filepath.Join(dir, "blocked")
	write(t, filepath.Join(blocked, "sluice", "file"), "", 0o644)
	for name, tt := range map[string]struct{ from, to, want string }{
		"no plugin":              {filepath.Join(dir, "none"), dir, "read the plugin: open " + dir + "/none"},
		"no directory":           {from, filepath.Join(dir, "bin"), `look at the CNI directory "` + dir + `/bin"`},
		"a file":                 {from, from, "not a directory"},
		"a directory in its way": {from, blocked, "install " + blocked + "/sluice: rename"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := install.Plugin(tt.from, tt.to)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := os.Lstat(filepath.Join(blocked, ".sluice.new")); !os.IsNotExist(err) {
		t.Errorf("the unfinished file stays: %v", err)
	}
}

// A runtime that starts the plugin at any moment meets a whole one.
func TestThereIsAlwaysAWholePlugin(t *testing.T) {
	dir := t.TempDir()
	var versions [2]string
	var contents [2][]byte
	for i := range versions {
		versions[i] = filepath.Join(t.TempDir(), "plugin")
		contents[i] = bytes.Repeat([]byte{byte('a' + i)}, 1<<20)
		write(t, versions[i], string(contents[i]), 0o644)
	}
	if _, err := install.Plugin(versions[0], dir); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var installer sync.WaitGroup
	installer.Go(func() {
		for i := 1; ; i++ {
			if _, err := install.Plugin(versions[i%2], dir); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	seen := [2]int{}
	for deadline := time.Now().Add(30 * time.Second); seen[0] < 20 || seen[1] < 20; {
		content, err := os.ReadFile(filepath.Join(dir, install.Name))
		switch {
		case err != nil:
			t.Error(err)
		case bytes.Equal(content, contents[0]):
			seen[0]++
		case bytes.Equal(content, contents[1]):
			seen[1]++
		default:
			t.Errorf("%d octets of a plugin", len(content))
		}
		if t.Failed() || time.Now().After(deadline) {
			break
		}
	}
	close(stop)
	installer.Wait()
	if seen[0] == 0 || seen[1] == 0 {
		t.Errorf("versions seen: %v", seen)
	}
}
