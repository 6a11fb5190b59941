// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// PinnedMaps counts the entries of each map that is pinned in a directory, by the map's file name. Entries of arrays are
// there from the beginning, so arrays are left out.
func PinnedMaps(dir string) (map[string]int, error) {
	counts := map[string]int{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != dir:
			return fs.SkipDir
		case entry.IsDir():
			return nil
		}
		m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return nil //nolint:nilerr // a program
		}
		defer m.Close()
		if m.Type() == ebpf.PerCPUArray || m.Type() == ebpf.Array {
			return nil
		}
		counts[entry.Name()], err = countEntries(m)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("count the entries of the maps pinned in %s: %w", dir, err)
	}
	return counts, nil
}

func countEntries(m *ebpf.Map) (int, error) {
	key := make([]byte, m.KeySize())
	err := m.NextKey(nil, &key)
	for n := 0; ; n++ {
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		err = m.NextKey(key, &key)
	}
}
