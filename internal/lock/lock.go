// SPDX-License-Identifier: Apache-2.0

// Package lock owns that at most one process works on a file or directory. A lock ends with its process, however that
// ends, so nothing has to be cleaned up after a crash. It must not know what is protected.
package lock

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// HeldError tells that another process holds the lock.
type HeldError struct {
	Path string
	// PID of the holder, as this process's PID namespace numbers it; 0 if it is not to be seen from here.
	PID int
}

// Error names the holder.
func (e *HeldError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s is held by a process that cannot be seen from here (of another container or machine)", e.Path)
	}
	return fmt.Sprintf("%s is held by process %d", e.Path, e.PID)
}

// Lock is a lock that this process holds.
type Lock struct{ file *os.File }

// Take takes the lock of a path (flock(2)) without waiting: a directory, which must be there, or a file, which is made
// if it is missing and whose content does not matter. If another process, or this one, holds it, the error is a
// *HeldError.
func Take(path string) (*Lock, error) {
	file, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = &HeldError{Path: path, PID: holder(file)}
	} else if err != nil {
		err = fmt.Errorf("lock %s: %w", path, err)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &Lock{file: file}, nil
}

// Close gives the lock back. The file stays: removing it would let two processes lock two files of one name.
func (l *Lock) Close() error { return l.file.Close() }

func open(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return os.Open(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// For writing, because NFS makes a byte-range lock of it, which needs that.
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}

// holder asks the kernel who holds the lock of a file; 0 if it does not say. A PID inside the file could be one of
// another PID namespace, or of a process that is gone.
func holder(file *os.File) int {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return 0
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return 0
	}
	defer locks.Close()
	id := fmt.Sprintf("%02x:%02x:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev), stat.Ino)
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		// proc_locks(5): "1: FLOCK  ADVISORY  WRITE 708 00:13:16 0 EOF"; those that wait have "->" after the number.
		fields := strings.Fields(lines.Text())
		if len(fields) > 5 && fields[1] == "FLOCK" && fields[5] == id {
			pid, _ := strconv.Atoi(fields[4]) // what is no number is not known
			return pid
		}
	}
	return 0
}
