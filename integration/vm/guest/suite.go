// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/integration/vm/wire"
)

// lastWords is how long output is still heard of what a test binary has left running.
const lastWords = time.Second

func runSuite(w *writer, index int, s wire.Suite) error {
	r, out, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(s.Command[0], s.Command[1:]...)
	cmd.Dir = s.Dir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "TMPDIR=/tmp"}, s.Env...)
	err = cmd.Start()
	_ = out.Close()
	if err != nil {
		return fmt.Errorf("start suite %d: %w", index, err)
	}
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		forward(w, index, r)
	}()
	status, err := reap(cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("wait for %s: %w", s.Command[0], err)
	}
	_ = r.SetReadDeadline(time.Now().Add(lastWords))
	<-heard
	for _, file := range s.Fetch {
		if err := fetch(w, index, file); err != nil {
			return err
		}
	}
	w.send(wire.Message{Suite: index, Exit: &status})
	return nil
}

func forward(w *writer, index int, r *os.File) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			w.send(wire.Message{Suite: index, Output: buf[:n]})
		}
		if err != nil {
			return // the end of the stream, or of lastWords
		}
	}
}

// reap waits for a child, and buries the orphans that end meanwhile: that is the first process's duty.
func reap(child int) (status int, err error) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case pid != child:
		case ws.Signaled():
			return 128 + int(ws.Signal()), nil
		default:
			return ws.ExitStatus(), nil
		}
	}
}

func fetch(w *writer, index int, path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the host misses it and says so
	}
	if err != nil {
		return err
	}
	w.send(wire.Message{Suite: index, File: &wire.File{Path: path, Data: data}})
	return nil
}
