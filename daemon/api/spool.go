// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

const (
	spoolSuffix = ".json"
	// maxContainerID keeps file names below the 255 octets of Linux file systems, the temporary ones included. Runtimes
	// use 64 characters.
	maxContainerID = 200
	// maxIfName is IFNAMSIZ without its terminating zero.
	maxIfName = 15
)

// Validate tells whether the key is safe to be a file's name, and a path's part. The rules are CNI's own.
func (k Key) Validate() error {
	if k.ContainerID == "" || len(k.ContainerID) > maxContainerID || !isAlnum(k.ContainerID[0]) {
		return fmt.Errorf("container ID %q: want 1 to %d characters that begin with a letter or digit",
			k.ContainerID, maxContainerID)
	}
	for i := range len(k.ContainerID) {
		if c := k.ContainerID[i]; !isAlnum(c) && !strings.ContainsRune("_.-", rune(c)) {
			return fmt.Errorf("container ID %q: want letters, digits, '_', '.' and '-' only", k.ContainerID)
		}
	}
	if k.IfName == "" || len(k.IfName) > maxIfName || k.IfName == "." || k.IfName == ".." {
		return fmt.Errorf("interface name %q: want 1 to %d characters, and neither \".\" nor \"..\"", k.IfName, maxIfName)
	}
	for _, r := range k.IfName {
		if r == '/' || r == ':' || r == 0 || r == unicode.ReplacementChar || unicode.IsSpace(r) {
			return fmt.Errorf("interface name %q: want no '/', ':', zero or white space", k.IfName)
		}
	}
	return nil
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// Validate tells whether the attachment says what the agent must know of it. An attachment without addresses is valid:
// it can be a client, though no backend.
func (a Attachment) Validate() error {
	if err := a.Key().Validate(); err != nil {
		return err
	}
	switch {
	case a.Netns == "" || a.NetnsInode == 0:
		return fmt.Errorf("attachment %s: \"netns\" or \"netnsInode\" is missing", a.Key())
	case a.MAC.IsZero():
		return fmt.Errorf("attachment %s: \"mac\" is missing", a.Key())
	case a.MasterIndex <= 0:
		return fmt.Errorf("attachment %s: \"masterIndex\" is %d, want a positive interface index", a.Key(), a.MasterIndex)
	}
	for _, p := range a.Addresses {
		if !p.IsValid() {
			return fmt.Errorf("attachment %s: \"addresses\" holds an empty address", a.Key())
		}
	}
	return nil
}

// SpoolName gives the name of the key's file in the spool directory. A container ID has no '@', so the name is unique.
func SpoolName(k Key) string { return k.ContainerID + "@" + k.IfName + spoolSuffix }

// ParseSpoolName reads the key back from a file's name. It is false for any other file, such as one half-written.
func ParseSpoolName(name string) (Key, bool) {
	stem, ok := strings.CutSuffix(name, spoolSuffix)
	if !ok {
		return Key{}, false
	}
	containerID, ifName, ok := strings.Cut(stem, "@")
	k := Key{ContainerID: containerID, IfName: ifName}
	return k, ok && k.Validate() == nil
}

// WriteSpool puts the attachment into the spool directory, in place of one with the same key. Readers see the old file
// or the new one, never a part. The directory is made if it is missing.
func WriteSpool(dir string, a Attachment) error {
	if err := a.Validate(); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the spool directory: %w", err)
	}
	data, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return fmt.Errorf("encode attachment %s: %w", a.Key(), err)
	}
	// CreateTemp makes the file with mode 0600.
	temp, err := os.CreateTemp(dir, tempPrefix(a.Key())+"*")
	if err != nil {
		return fmt.Errorf("spool attachment %s: %w", a.Key(), err)
	}
	_, err = temp.Write(append(data, '\n'))
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), filepath.Join(dir, SpoolName(a.Key())))
	}
	if err != nil {
		return fmt.Errorf("spool attachment %s: %w", a.Key(), errors.Join(err, os.Remove(temp.Name())))
	}
	return nil
}

// ReadSpool reads a key's attachment. The error wraps fs.ErrNotExist if there is none.
func ReadSpool(dir string, k Key) (Attachment, error) {
	if err := k.Validate(); err != nil {
		return Attachment{}, err
	}
	path := filepath.Join(dir, SpoolName(k))
	data, err := os.ReadFile(path)
	if err != nil {
		return Attachment{}, fmt.Errorf("read spool file: %w", err)
	}
	var a Attachment
	if err := json.Unmarshal(data, &a); err != nil {
		return Attachment{}, fmt.Errorf("decode spool file %s: %w", path, err)
	}
	if err := a.Validate(); err != nil {
		return Attachment{}, fmt.Errorf("spool file %s: %w", path, err)
	}
	if a.Key() != k {
		return Attachment{}, fmt.Errorf("spool file %s holds attachment %s", path, a.Key())
	}
	return a, nil
}

// RemoveSpool removes a key's file, and what a writer that was killed has left of one. Removing what is absent succeeds.
func RemoveSpool(dir string, k Key) error {
	if err := k.Validate(); err != nil {
		return err
	}
	entries, err := readDir(dir)
	errs := []error{err}
	for _, entry := range entries {
		name := entry.Name()
		if half, ok := ParseSpoolTemp(name); name == SpoolName(k) || ok && half == k {
			if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("remove spool file: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// SpoolKeys gives the key of each spool file, in the order of their names. A directory that is missing holds none.
func SpoolKeys(dir string) ([]Key, error) {
	entries, err := readDir(dir)
	var keys []Key
	for _, entry := range entries {
		if k, ok := ParseSpoolName(entry.Name()); ok {
			keys = append(keys, k)
		}
	}
	return keys, err
}

func readDir(dir string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return entries, fmt.Errorf("read the spool directory: %w", err)
	}
	return entries, nil
}

// tempPrefix begins the name of a file that is being written. The dot makes it no key's.
func tempPrefix(k Key) string { return "." + SpoolName(k) + "-" }

// ParseSpoolTemp reads the key back from the name of a file that WriteSpool is writing, or was when it was killed. It is
// false for any other file.
func ParseSpoolTemp(name string) (Key, bool) {
	// Only digits follow the last "-": another one may be part of the interface's name.
	end := strings.LastIndexByte(name, '-')
	if end < 0 || end+1 == len(name) || strings.Trim(name[end+1:], "0123456789") != "" || name[0] != '.' {
		return Key{}, false
	}
	return ParseSpoolName(name[1:end])
}
