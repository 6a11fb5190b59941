// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// archive writes an initramfs: a cpio archive in the "newc" format
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	w     io.Writer
	inode uint32
	dirs  map[string]bool
	err   error
}

const (
	modeDir  = 0o040000
	modeFile = 0o100000
)

func newArchive(w io.Writer) *archive {
	return &archive{w: w, dirs: map[string]bool{".": true}}
}

// dir adds a directory and those above it.
func (a *archive) dir(name string) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	if a.dirs[name] || name == "" {
		return
	}
	a.dirs[name] = true
	a.dir(path.Dir(name))
	a.entry(name, modeDir|0o755, nil)
}

// file adds a file that everybody may execute.
func (a *archive) file(name string, data []byte) {
	a.dir(path.Dir(name))
	a.entry(strings.TrimPrefix(path.Clean(name), "/"), modeFile|0o755, data)
}

// copy adds a file of this machine.
func (a *archive) copy(name, from string) {
	data, err := os.ReadFile(from)
	if err != nil && a.err == nil {
		a.err = err
	}
	a.file(name, data)
}

// close ends the archive and gives the first error.
func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, nil)
	return a.err
}

func (a *archive) entry(name string, mode uint32, data []byte) {
	a.inode++
	const links, none = 1, 0
	fields := []uint32{
		a.inode, mode, none, none, links, none, uint32(len(data)), none, none, none, none, uint32(len(name) + 1), none,
	}
	var b strings.Builder
	b.WriteString("070701")
	for _, f := range fields {
		fmt.Fprintf(&b, "%08X", f)
	}
	b.WriteString(name + "\x00")
	a.write([]byte(b.String()))
	a.write(data)
}

// write pads to a multiple of four octets.
func (a *archive) write(data []byte) {
	for _, part := range [][]byte{data, make([]byte, -len(data)&3)} {
		if _, err := a.w.Write(part); err != nil && a.err == nil {
			a.err = fmt.Errorf("write the initramfs: %w", err)
		}
	}
}
