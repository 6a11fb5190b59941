// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestSpoolKeepsOneFilePerAttachment(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sluice", "attachments")
	a := exampleAttachment()
	if err := WriteSpool(dir, a); err != nil {
		t.Fatal(err)
	}
	a.Master = "eth2" // a second ADD replaces the first
	if err := WriteSpool(dir, a); err != nil {
		t.Fatal(err)
	}
	got, err := ReadSpool(dir, a.Key())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
		t.Errorf("attachment (-want +got):\n%s", diff)
	}
	wantMode(t, dir, 0o700)
	wantMode(t, filepath.Dir(dir), 0o700)
	wantMode(t, filepath.Join(dir, "c0ffee@net1.json"), 0o600)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("the directory holds %v, want one file", entries)
	}

	for range 2 { // removing what is absent succeeds
		if err := RemoveSpool(dir, a.Key()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ReadSpool(dir, a.Key()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read after removal: %v, want fs.ErrNotExist", err)
	}
}

func wantMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != want {
		t.Errorf("mode of %s = %o, want %o", path, got, want)
	}
}

func TestSpoolLeavesNothingBehindWhenItCannotWrite(t *testing.T) {
	dir := t.TempDir()
	a := exampleAttachment()
	// A directory in the file's place makes the rename fail.
	if err := os.MkdirAll(filepath.Join(dir, SpoolName(a.Key()), "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteSpool(dir, a); err == nil {
		t.Fatal("WriteSpool succeeded over a directory")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("the directory holds %v, want no temporary file", entries)
	}
}

// TestSpoolForgetsWhatAKilledWriterLeft removes one key's files, whole or not, and no other's.
func TestSpoolForgetsWhatAKilledWriterLeft(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{
		"c0ffee@net1.json", ".c0ffee@net1.json-42", ".c0ffee@net1.json-7", // the key's
		"c0ffee@net10.json", "c0ffee@net2.json", ".c0ffee@net2.json-42", "d@net1.json", // other keys'
		".c0ffee@net1.json-1.json-42", ".c0ffee@net1.json-", "note", // an interface named "net1.json-1", and no key's
	} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := RemoveSpool(dir, Key{ContainerID: "c0ffee", IfName: "net1"}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	want := []string{
		".c0ffee@net1.json-", ".c0ffee@net1.json-1.json-42", ".c0ffee@net2.json-42",
		"c0ffee@net10.json", "c0ffee@net2.json", "d@net1.json", "note",
	}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	keys, err := SpoolKeys(dir)
	wantKeys := []Key{{"c0ffee", "net10"}, {"c0ffee", "net2"}, {"d", "net1"}}
	if diff := cmp.Diff(wantKeys, keys); diff != "" || err != nil {
		t.Errorf("keys, err = %v (-want +got):\n%s", err, diff)
	}
}

func TestSpoolDirectory(t *testing.T) {
	absent, file := filepath.Join(t.TempDir(), "absent"), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	k := Key{ContainerID: "a", IfName: "net1"}
	if keys, err := SpoolKeys(absent); keys != nil || err != nil {
		t.Errorf("SpoolKeys without a directory = %v, %v, want nothing", keys, err)
	}
	if err := RemoveSpool(absent, k); err != nil {
		t.Errorf("RemoveSpool without a directory = %v, want success", err)
	}
	if _, err := SpoolKeys(file); err == nil {
		t.Error("SpoolKeys reads a file as a directory")
	}
	if err := RemoveSpool(file, k); err == nil {
		t.Error("RemoveSpool takes a file for a directory")
	}
}

func TestKeyRefusesUnsafeNames(t *testing.T) {
	tests := map[string]struct {
		key Key
		ok  bool
	}{
		"usual":               {Key{strings.Repeat("0a", 32), "net1"}, true},
		"all characters":      {Key{"A.b_c-9", "eth0@x"}, true},
		"longest":             {Key{strings.Repeat("a", 200), strings.Repeat("n", 15)}, true},
		"empty container":     {Key{"", "net1"}, false},
		"container too long":  {Key{strings.Repeat("a", 201), "net1"}, false},
		"climbing container":  {Key{"../../etc/passwd", "net1"}, false},
		"hidden container":    {Key{".new-1", "net1"}, false},
		"at in the container": {Key{"a@b", "net1"}, false},
		"empty interface":     {Key{"a", ""}, false},
		"dots":                {Key{"a", ".."}, false},
		"interface too long":  {Key{"a", strings.Repeat("n", 16)}, false},
		"climbing interface":  {Key{"a", "../x"}, false},
		"space in interface":  {Key{"a", "a b"}, false},
		"zero in interface":   {Key{"a", "a\x00b"}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if err := tc.key.Validate(); (err == nil) != tc.ok {
				t.Fatalf("Validate = %v, want ok %t", err, tc.ok)
			}
			got, ok := ParseSpoolName(SpoolName(tc.key))
			if tc.ok && (!ok || got != tc.key) {
				t.Errorf("the file's name reads back as %v, %t", got, ok)
			}
			if !tc.ok && ok && got == tc.key {
				t.Errorf("the file's name reads back as an unsafe key")
			}
		})
	}
	for _, name := range []string{"", ".json", "@.json", "a@net1", "a@net1.json.bad", ".new-7", "anet1.json"} {
		if k, ok := ParseSpoolName(name); ok {
			t.Errorf("ParseSpoolName(%q) = %v, want none", name, k)
		}
	}
}

func TestAttachmentValidate(t *testing.T) {
	if err := exampleAttachment().Validate(); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		spoil func(*Attachment)
		want  string
	}{
		"no container": {func(a *Attachment) { a.ContainerID = "" }, "container ID"},
		"no netns":     {func(a *Attachment) { a.Netns = "" }, `"netns"`},
		"no inode":     {func(a *Attachment) { a.NetnsInode = 0 }, `"netnsInode"`},
		"no MAC":       {func(a *Attachment) { a.MAC = [6]byte{} }, `"mac"`},
		"no master":    {func(a *Attachment) { a.MasterIndex = 0 }, `"masterIndex"`},
		"empty prefix": {func(a *Attachment) { a.Addresses = append(a.Addresses, netip.Prefix{}) }, `"addresses"`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			a := exampleAttachment()
			tc.spoil(&a)
			err := a.Validate()
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want one with %q", err, tc.want)
			}
			if err := WriteSpool(t.TempDir(), a); err == nil {
				t.Error("WriteSpool wrote it")
			}
		})
	}
}

func TestReadSpoolRefusesBadFiles(t *testing.T) {
	valid, err := os.ReadFile("testdata/attachment.json")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct{ content, want string }{
		"empty":            {"", "decode spool file"},
		"cut off":          {string(valid[:len(valid)/2]), "decode spool file"},
		"nothing in it":    {"{}", "container ID"},
		"another's":        {strings.Replace(string(valid), "c0ffee", "decaf", 1), "holds attachment decaf/net1"},
		"address is wrong": {strings.Replace(string(valid), "192.168.20.20/24", "192.168.20.20/99", 1), "decode spool file"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			key := exampleAttachment().Key()
			if err := os.WriteFile(filepath.Join(dir, SpoolName(key)), []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := ReadSpool(dir, key)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want one with %q", err, tc.want)
			}
		})
	}
}
