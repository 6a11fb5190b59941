// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Kernel is a BPF hash map as a Store.
type Kernel[K, V comparable] struct {
	Map *ebpf.Map
}

var _ Store[uint32, uint32] = Kernel[uint32, uint32]{}

// All reads the whole map.
func (k Kernel[K, V]) All() (map[K]V, error) {
	var (
		key   K
		value V
		all   = make(map[K]V)
		iter  = k.Map.Iterate()
	)
	for iter.Next(&key, &value) {
		all[key] = value
	}
	return all, iter.Err()
}

// Put writes one entry whole: readers see the old value or the new one.
func (k Kernel[K, V]) Put(key K, value V) error { return Explain(k.Map, k.Map.Put(key, value)) }

// Delete removes one entry.
func (k Kernel[K, V]) Delete(key K) error { return k.Map.Delete(key) }

// Explain gives an error of writing to a map as a Store does.
func Explain(m *ebpf.Map, err error) error {
	switch {
	case errors.Is(err, unix.E2BIG), errors.Is(err, unix.ENOSPC): // of a hash, of a trie
		return fmt.Errorf("%w: its %d entries are all in use", ErrFull, m.MaxEntries())
	case errors.Is(err, unix.ENOMEM):
		return ErrNoMemory
	}
	return err
}
