// SPDX-License-Identifier: Apache-2.0

// Package mirror brings a BPF map to what is wanted of it by writing only the difference. It must not know what the map
// means.
package mirror

import (
	"errors"
	"fmt"
	"maps"

	"github.com/cilium/ebpf"
)

// Store is a map to be kept equal to a Go map. Delete of an absent key must succeed or return ebpf.ErrKeyNotExist.
type Store[K, V comparable] interface {
	All() (map[K]V, error)
	Put(K, V) error
	Delete(K) error
}

// Mirror remembers what a Store holds, so that a sync costs what has changed. It is not safe for concurrent use.
type Mirror[K, V comparable] struct {
	name  string
	store Store[K, V]
	have  map[K]V // nil until read, and after a failure: then the store is read again
}

// New gives the mirror of a store; name appears in errors.
func New[K, V comparable](name string, store Store[K, V]) *Mirror[K, V] {
	return &Mirror[K, V]{name: name, store: store}
}

// Have gives what the store holds; the caller must not change it. It reads the store when the mirror does not know.
func (m *Mirror[K, V]) Have() (map[K]V, error) {
	if m.have == nil {
		have, err := m.store.All()
		if err != nil {
			return nil, fmt.Errorf("read map %s: %w", m.name, err)
		}
		m.have = have
	}
	return m.have, nil
}

// Put writes what is new or different in want and leaves the rest. It goes on after a failure, and reports them all.
func (m *Mirror[K, V]) Put(want map[K]V) error {
	have, err := m.Have()
	if err != nil {
		return err
	}
	var errs []error
	for k, v := range want {
		if old, ok := have[k]; ok && old == v {
			continue
		}
		if err := m.store.Put(k, v); err != nil {
			errs = append(errs, fmt.Errorf("write %v to map %s: %w", k, m.name, err))
			continue
		}
		have[k] = v
	}
	return m.done(errs)
}

// Prune deletes what is not in want. It goes on after a failure, and reports them all.
func (m *Mirror[K, V]) Prune(want map[K]V) error {
	have, err := m.Have()
	if err != nil {
		return err
	}
	var errs []error
	for k := range maps.Clone(have) {
		if _, ok := want[k]; ok {
			continue
		}
		if err := m.store.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete %v from map %s: %w", k, m.name, err))
			continue
		}
		delete(have, k)
	}
	return m.done(errs)
}

// done distrusts the memory after a failure: somebody else may have changed the store.
func (m *Mirror[K, V]) done(errs []error) error {
	if len(errs) > 0 {
		m.have = nil
	}
	return errors.Join(errs...)
}
