// SPDX-License-Identifier: Apache-2.0

package peerkeys

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func key(b byte) []byte { return bytes.Repeat([]byte{b}, Octets) }

func TestNewKeysCanBeReadAndDiffer(t *testing.T) {
	first, err := Read(write(t, New()))
	if err != nil {
		t.Fatal(err)
	}
	second, err := Read(write(t, New()))
	if err != nil {
		t.Fatal(err)
	}
	if len(first) != 1 || first[0].ID != 1 || len(first[0].Secret) != Octets || bytes.Equal(first[0].Secret, second[0].Secret) {
		t.Errorf("keys %v and %v", first, second)
	}
}

func TestTheKeyThatIsSentComesFirst(t *testing.T) {
	for send, want := range map[string][]uint8{"7": {7, 12}, "12\n": {12, 7}} {
		set, err := Read(write(t, map[string][]byte{"7": key(7), "12": key(12), Send: []byte(send), "..data": nil}))
		if err != nil {
			t.Fatal(err)
		}
		for i, id := range want {
			if set[i].ID != id || !bytes.Equal(set[i].Secret, key(id)) {
				t.Errorf("send %q: key %d is %v, want ID %d", send, i, set[i], id)
			}
		}
	}
}

func TestBadKeysAreRefusedByName(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string][]byte
		want  string
	}{
		{"nothing", nil, "file send names key 0, which is not there"},
		{"short", map[string][]byte{"1": []byte("secret"), Send: []byte("1")}, "1: 6 octets: want 32 or more"},
		{"no number", map[string][]byte{"one": key(1), Send: []byte("1")}, `one: the name is none of a key: "one": want a number`},
		{"zero", map[string][]byte{"0": key(1), Send: []byte("1")}, `"0": want a number from 1 to 255`},
		{"high", map[string][]byte{"256": key(1), Send: []byte("1")}, `"256": want a number from 1 to 255`},
		{"padded", map[string][]byte{"01": key(1), Send: []byte("1")}, `"01": want a number from 1 to 255`},
		{"send what", map[string][]byte{"1": key(1), Send: []byte("new")}, `send: "new": want a number from 1 to 255: write the ID`},
		{"send another", map[string][]byte{"1": key(1), Send: []byte("2")}, "file send names key 2, which is not there: add it"},
		{"three", map[string][]byte{"1": key(1), "2": key(2), "3": key(3), Send: []byte("1")}, "3 keys: want one, or two"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := write(t, tt.files)
			set, err := Read(dir)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), dir) || set != nil {
				t.Errorf("got %v and %v, want an error with %q", set, err, tt.want)
			}
		})
	}
	if _, err := Read(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("an absent directory has keys")
	}
}

func TestUsesHaveKeysOfTheirOwn(t *testing.T) {
	set := Set{{2, key(2)}, {1, key(1)}}
	bfd, peer := set.Derive("bfd", 20), set.Derive("peer", 32)
	if len(bfd) != 2 || bfd[0].ID != 2 || bfd[1].ID != 1 || len(bfd[0].Secret) != 20 || len(peer[0].Secret) != 32 {
		t.Fatalf("derived %v and %v", bfd, peer)
	}
	if bytes.Equal(bfd[0].Secret, peer[0].Secret[:20]) || bytes.Equal(bfd[0].Secret, bfd[1].Secret) {
		t.Error("two uses, or two keys, have one secret")
	}
	// Nodes of two versions must agree for ever. Made by another implementation of RFC 5869.
	if got := hex.EncodeToString(bfd[0].Secret); got != "f8938226ca363e4b1f0902f08c0fcfe196033edc" {
		t.Errorf("the key of BFD is %s", got)
	}
}
