// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/integration/vm/wire"
)

func TestArchiveIsNewcWithParentsFirst(t *testing.T) {
	var out bytes.Buffer
	a := newArchive(&out)
	a.file("/a/b/c", []byte("hello"))
	a.file("/a/d", nil)
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	if out.Len()%4 != 0 {
		t.Errorf("%d octets, want a multiple of 4", out.Len())
	}
	got := []string{}
	for _, entry := range strings.Split(out.String(), "070701")[1:] {
		fields := entry[:13*8]
		name, rest, _ := strings.Cut(entry[13*8:], "\x00")
		got = append(got, fields[8:16]+" "+fields[48:56]+" "+name+" "+strings.Trim(rest, "\x00"))
	}
	want := []string{
		"000041ED 00000000 a ", "000041ED 00000000 a/b ", "000081ED 00000005 a/b/c hello", "000081ED 00000000 a/d ",
		"00000000 00000000 TRAILER!!! ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("mode, size, name, content (-want +got):\n%s", diff)
	}
	if at := strings.Index(out.String(), "hello"); at%4 != 0 {
		t.Errorf("content begins at octet %d, want a multiple of 4", at)
	}
}

func TestModulesComeAfterThoseTheyNeed(t *testing.T) {
	tree := t.TempDir()
	for name, needs := range map[string]string{
		"top.ko": "mid-one,base", "mid_one.ko": "base", "base.ko": "", "lost.ko": "gone",
	} {
		object := objectWith("license=GPL\x00depends=" + needs + "\x00")
		if err := os.WriteFile(filepath.Join(tree, name), object, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	builtin := []byte("kernel/net/in-built.ko\n")
	if err := os.WriteFile(filepath.Join(tree, "modules.builtin"), builtin, 0o644); err != nil {
		t.Fatal(err)
	}
	mods, err := modules(tree, "in_built", "top", "base")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range mods {
		got = append(got, m.name)
	}
	if diff := cmp.Diff([]string{"base", "mid_one", "top"}, got); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
	if _, err := modules(tree, "lost"); err == nil || !strings.Contains(err.Error(), `"gone"`) {
		t.Errorf("a module that needs a missing one: error %v, want the missing one's name", err)
	}
}

// objectWith makes an ELF file with nothing but a section .modinfo.
func objectWith(modinfo string) []byte {
	const names = "\x00.modinfo\x00.shstrtab\x00"
	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	h := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
		Shoff: uint64(64 + len(modinfo) + len(names)),
	}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	put(h)
	b.WriteString(modinfo + names)
	put(elf.Section64{})
	put(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(modinfo))})
	put(elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(modinfo)), Size: uint64(len(names))})
	return b.Bytes()
}

func TestLibrariesOfAProgram(t *testing.T) {
	const ldd = "\tlinux-vdso.so.1 (0x1)\n" +
		"\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n" +
		"\t/lib64/ld-linux-x86-64.so.2 (0x3)\n"
	want := []string{"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"}
	if diff := cmp.Diff(want, libraries(ldd)); diff != "" {
		t.Errorf("libraries (-want +got):\n%s", diff)
	}
}

func TestWhatAMachineSays(t *testing.T) {
	for name, tc := range map[string]struct {
		said  string
		ended bool
		err   string
	}{
		"to the end":    {said: `{"Kernel":"6.1"}` + "\n" + `{"End":true}`, ended: true},
		"not to an end": {said: `{"Kernel":"6.1"}`},
		"a fault":       {said: `{"Fault":"no proc"}`, err: "in the machine: no proc"},
		"nonsense":      {said: "Kernel panic", err: "understand the machine"},
	} {
		t.Run(name, func(t *testing.T) {
			ended, err := listen(json.NewDecoder(strings.NewReader(tc.said)), func(wire.Message) error { return nil })
			if ended != tc.ended {
				t.Errorf("ended: %v, want %v", ended, tc.ended)
			}
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
		})
	}
}

// A machine that dies in the second suite fails that and all that follow, with the reason, and keeps the first's
// results.
func TestDeathOfAMachineFailsWhatHasNotEnded(t *testing.T) {
	var out bytes.Buffer
	h := hearing{kernel: kernel{major: 6, minor: 1}, out: &out}
	for _, m := range []wire.Message{
		{Kernel: "6.1.0"},
		{Output: []byte("=== RUN   TestA\n--- PASS: TestA (0.00s)\nPASS\n")},
		{Exit: new(int)},
		{Suite: 1, Output: []byte("=== RUN   TestB\n")},
	} {
		if err := h.hear(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.close(errors.New("it crashed")); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	var reasons int
	for dec := json.NewDecoder(&out); dec.More(); {
		var e event
		if err := dec.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if e.Test == "" && (e.Action == "pass" || e.Action == "fail") {
			got[e.Package] = e.Action
		}
		if e.Output == "it crashed\n" {
			reasons++
		}
	}
	want := map[string]string{}
	for i, s := range suites {
		want[modulePath+"/"+s.pkg+" on 6.1.0"] = map[bool]string{true: "pass", false: "fail"}[i == 0]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	if reasons != len(suites)-1 {
		t.Errorf("the reason was told %d times, want %d", reasons, len(suites)-1)
	}
}
