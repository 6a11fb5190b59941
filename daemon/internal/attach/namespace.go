// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/daemon/api"
)

// namespaceAlive tells whether the attachment's network namespace still exists. In doubt it does, and the doubt is
// told: an agent that does not see the host's namespaces must not take all pods for dead.
func namespaceAlive(a api.Attachment) (alive bool, doubt string) {
	info, err := os.Stat(a.Netns)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		if parentVisible(a.Netns) {
			return false, ""
		}
		return true, hint(a.Netns)
	}
	if err != nil {
		return true, err.Error()
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok && stat.Ino == a.NetnsInode {
		return true, ""
	}
	// A name without a namespace mounted on it is one that was mounted where this process cannot see it, or one that
	// is about to go. If it goes, the check that follows finds it absent.
	var fsInfo unix.Statfs_t
	if err := unix.Statfs(a.Netns, &fsInfo); err != nil || fsInfo.Type != unix.NSFS_MAGIC {
		return true, hint(a.Netns)
	}
	return false, ""
}

// parentVisible tells whether an absent path proves anything. A process that ended has no directory in /proc any more;
// the directory of named namespaces is always there once a pod has run.
func parentVisible(path string) bool {
	if inProc(path) {
		return true
	}
	info, err := os.Stat(filepath.Dir(path))
	return err == nil && info.IsDir()
}

func hint(path string) string {
	return fmt.Sprintf("%s is no namespace here: give the agent the host's %s, with mount propagation HostToContainer",
		path, filepath.Dir(path))
}

func inProc(path string) bool { return strings.HasPrefix(path, "/proc/") }
