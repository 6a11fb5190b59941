// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// module is a kernel module, ready to be loaded.
type module struct {
	name string
	data []byte
}

// modules gives the named modules and those that they need, each after its own needs. A name that is built into the
// kernel counts as there. tree is what a package has under /lib/modules/RELEASE: without modules.dep, which only the
// installation makes.
func modules(tree string, names ...string) ([]module, error) {
	l := loader{files: map[string]string{}, done: map[string]bool{}}
	err := filepath.WalkDir(tree, func(file string, d fs.DirEntry, err error) error {
		if base, _, ok := strings.Cut(filepath.Base(file), ".ko"); ok && err == nil && d.Type().IsRegular() {
			l.files[canonical(base)] = file
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list kernel modules: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(tree, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("list kernel modules: %w", err)
	}
	for line := range strings.Lines(string(builtin)) {
		l.done[canonical(strings.TrimSuffix(filepath.Base(strings.TrimSpace(line)), ".ko"))] = true
	}
	for _, name := range names {
		err = errors.Join(err, l.add(canonical(name)))
	}
	return l.out, err
}

// canonical is a module's name as the kernel writes it.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

type loader struct {
	files map[string]string
	done  map[string]bool
	out   []module
}

func (l *loader) add(name string) error {
	if l.done[name] {
		return nil
	}
	l.done[name] = true
	file, ok := l.files[name]
	if !ok {
		return fmt.Errorf("kernel module %q is neither in the tree nor built in", name)
	}
	data, err := readModule(file)
	if err != nil {
		return fmt.Errorf("read kernel module %q: %w", name, err)
	}
	needs, err := needs(data)
	if err != nil {
		return fmt.Errorf("read kernel module %q: %w", name, err)
	}
	for _, needed := range needs {
		if err := l.add(canonical(needed)); err != nil {
			return err
		}
	}
	l.out = append(l.out, module{name: name, data: data})
	return nil
}

func readModule(file string) ([]byte, error) {
	switch filepath.Ext(file) {
	case ".ko":
		return os.ReadFile(file)
	case ".xz":
		return exec.Command("xz", "-dc", file).Output()
	case ".zst":
		return exec.Command("zstd", "-dc", file).Output()
	}
	return nil, fmt.Errorf("%s is compressed in a way that is not known here", file)
}

// needs gives the modules that a module's description says it depends on.
func needs(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("it has no section .modinfo")
	}
	text, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(text), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok {
			return strings.FieldsFunc(list, func(r rune) bool { return r == ',' }), nil
		}
	}
	return nil, nil
}
