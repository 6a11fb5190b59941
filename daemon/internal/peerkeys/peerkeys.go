// SPDX-License-Identifier: Apache-2.0

// Package peerkeys is the secret that nodes know each other by: pods share their segments, so what nodes say there is
// authenticated. It owns how keys are kept, in a directory as Kubernetes mounts a Secret, and what is derived of them. It must not
// know who uses them.
//
// Each file is a key, named by its ID, a decimal from 1 to 255; file Send holds the ID of the one that is sent. All are accepted.
// So a key is replaced in steps that no message is lost by: add the new one, wait until all nodes have it, send it, wait again,
// remove the old one.
package peerkeys

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// Send names the file with the ID of the key that is sent.
	Send = "send"
	// Octets is the least length of a key: that of what HMAC-SHA256 gives (RFC 2104 section 3).
	Octets = 32
	// Most is how many keys may be accepted at a time: one, or two while they rotate.
	Most = 2
)

// Key is a secret with its ID.
type Key struct {
	ID     uint8
	Secret []byte
}

// Set is what a node accepts. The first one is sent.
type Set []Key

// New makes one random key, as the files of a directory.
func New() map[string][]byte {
	secret := make([]byte, Octets)
	rand.Read(secret) // never fails: crypto/rand
	return map[string][]byte{"1": secret, Send: []byte("1")}
}

// Read reads a directory. Names that begin with "." do not count: Kubernetes keeps its links there. All that is wrong is in one
// error, and then there is no set.
func Read(dir string) (Set, error) {
	set, err := read(dir)
	if err != nil {
		return nil, fmt.Errorf("read the keys of peers in %s: %w", dir, err)
	}
	return set, nil
}

func read(dir string) (Set, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var (
		set  Set
		send uint8
		errs []error
	)
	for _, entry := range entries { // sorted by name
		name := entry.Name()
		if strings.HasPrefix(name, ".") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if name == Send {
			if send, err = parseID(strings.TrimSpace(string(content))); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w: write the ID of the key that is to be sent", Send, err))
			}
			continue
		}
		id, err := parseID(name)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: the name is none of a key: %w", name, err))
		case len(content) < Octets:
			errs = append(errs, fmt.Errorf("%s: %d octets: want %d or more, such as `head -c %[3]d /dev/urandom` gives",
				name, len(content), Octets))
		default:
			set = append(set, Key{id, content})
		}
	}
	if len(errs) == 0 {
		errs = append(errs, set.arrange(send))
	}
	return set, errors.Join(errs...)
}

// arrange puts the key that is sent in front.
func (s Set) arrange(send uint8) error {
	if len(s) > Most {
		return fmt.Errorf("%d keys: want one, or two while they rotate: remove the oldest", len(s))
	}
	for i, key := range s {
		if key.ID == send {
			s[0], s[i] = s[i], s[0]
			return nil
		}
	}
	return fmt.Errorf("file %s names key %d, which is not there: add it, or name one that is", Send, send)
}

func parseID(text string) (uint8, error) {
	id, err := strconv.ParseUint(text, 10, 8)
	if err != nil || id == 0 || strconv.FormatUint(id, 10) != text {
		return 0, fmt.Errorf("%q: want a number from 1 to 255", text)
	}
	return uint8(id), nil
}

// Derive gives keys of so many octets for one use, by HKDF-SHA256 (RFC 5869): who learns those of one use knows nothing of those
// of another. IDs and order stay.
func (s Set) Derive(use string, octets int) Set {
	out := make(Set, 0, len(s))
	for _, key := range s {
		secret, err := hkdf.Key(sha256.New, key.Secret, nil, "sluice "+use, octets)
		if err != nil {
			panic(err) // more octets than 255 hashes have: a fault of the caller's
		}
		out = append(out, Key{key.ID, secret})
	}
	return out
}
