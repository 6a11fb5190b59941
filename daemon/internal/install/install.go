// SPDX-License-Identifier: Apache-2.0

// Package install owns the CNI plugin's place on a node: it finds the directory in which the container runtime looks, and
// puts the binary there. It must not touch the runtime or its configuration.
package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sluice-lb/sluice/internal/lock"
)

// Name is the plugin's file name: what a NetworkAttachmentDefinition gives as "type".
const Name = "sluice"

const (
	mode = 0o755
	// unfinished is what the binary is called until it is complete. Runtimes look for plugins by name, so nobody runs it.
	unfinished = "." + Name + ".new"
)

// Plugin puts a copy of the file from into dir, which must exist, as Name with mode 0755, and tells whether anything
// changed. A runtime that starts the plugin meanwhile gets the old one or the new one, whole; so it does after a power cut. Two
// calls for one directory exclude each other: the later fails.
func Plugin(from, dir string) (changed bool, err error) {
	content, err := os.ReadFile(from)
	if err != nil {
		return false, fmt.Errorf("read the plugin: %w", err)
	}
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = errors.New("not a directory")
	}
	if err != nil {
		return false, fmt.Errorf("look at the CNI directory %q: %w: name the one in which the container runtime looks for "+
			"plugins, and in a container mount it at the same path", dir, err)
	}
	single, err := lock.Take(dir)
	if err != nil {
		return false, fmt.Errorf("install into %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, single.Close()) }()

	target := filepath.Join(dir, Name)
	if same(target, content) {
		return false, nil
	}
	if err := replace(target, filepath.Join(dir, unfinished), content); err != nil {
		return false, fmt.Errorf("install %s: %w", target, err)
	}
	return true, nil
}

// same tells whether there is nothing to do. A symbolic link may lead to what the node's next upgrade removes, so it is not
// the same as a file.
func same(target string, content []byte) bool {
	info, err := os.Lstat(target)
	if err != nil || info.Mode() != fs.FileMode(mode) {
		return false
	}
	have, err := os.ReadFile(target)
	return err == nil && bytes.Equal(have, content)
}

// replace writes beside the target and renames. What a killed attempt has left under the other name is written over.
func replace(target, beside string, content []byte) (err error) {
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removed(beside))
		}
	}()
	_, err = file.Write(content)
	if err == nil {
		err = file.Chmod(mode) // whatever the umask
	}
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Rename(beside, target); err != nil {
		return err
	}
	return syncDir(filepath.Dir(target))
}

func removed(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncDir makes a rename last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
