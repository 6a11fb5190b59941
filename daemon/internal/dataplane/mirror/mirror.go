// SPDX-License-Identifier: Apache-2.0

// Package mirror brings a BPF map to what is wanted of it by writing only the difference. It must not know what the map
// means.
package mirror

import (
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/cilium/ebpf"
)

// Store is a map to be kept equal to a Go map. Delete of an absent key must succeed or return ebpf.ErrKeyNotExist. Put says with
// ErrFull or ErrNoMemory what is no fault of the entry.
type Store[K, V comparable] interface {
	All() (map[K]V, error)
	Put(K, V) error
	Delete(K) error
}

// What keeps a Store from taking a new entry.
var (
	ErrFull     = errors.New("the map is full")
	ErrNoMemory = errors.New("the kernel has no memory for it") // now; it may have some in a moment
)

// A map that allocates as it grows takes its memory from a small pool, which the kernel fills in the background
// (kernel/bpf/memalloc.c): thousands of new entries are faster. Those of maps per CPU wait for pages, a few at a time
// (pcpu_balance_workfn, mm/percpu.c).
const (
	patience = 2 * time.Second // for the kernel to find memory for one entry more
	refill   = 2 * time.Millisecond
)

// Mirror knows what is wanted of a Store, and where the Store holds something else, so that a sync costs what has changed. It
// is not safe for concurrent use.
type Mirror[K, V comparable] struct {
	name  string
	store Store[K, V]
	want  map[K]V
	stale map[K]held[V] // where the store differs from want; nil until it is read, and after a failure: then it is read again
}

// held is what a Store holds for a key.
type held[V comparable] struct {
	value V
	there bool
}

// New gives the mirror of a store of which nothing is wanted yet; name appears in errors.
func New[K, V comparable](name string, store Store[K, V]) *Mirror[K, V] {
	return &Mirror[K, V]{name: name, store: store, want: map[K]V{}}
}

// Set wants an entry. Put writes it.
func (m *Mirror[K, V]) Set(k K, v V) {
	old, wanted := m.want[k]
	m.want[k] = v
	m.note(k, held[V]{old, wanted}, held[V]{v, true})
}

// Unset wants no entry. Prune deletes it.
func (m *Mirror[K, V]) Unset(k K) {
	old, wanted := m.want[k]
	delete(m.want, k)
	m.note(k, held[V]{old, wanted}, held[V]{})
}

// SetAll wants these entries and no others.
func (m *Mirror[K, V]) SetAll(want map[K]V) {
	for k, v := range want {
		m.Set(k, v)
	}
	for k := range m.want {
		if _, ok := want[k]; !ok {
			m.Unset(k)
		}
	}
}

// note keeps in mind whether the store, which held what was wanted unless it is known better, differs from what is wanted now.
func (m *Mirror[K, V]) note(k K, was, is held[V]) {
	if m.stale == nil {
		return // it will be read
	}
	if has, ok := m.stale[k]; ok {
		was = has
	}
	if was == is {
		delete(m.stale, k)
	} else {
		m.stale[k] = was
	}
}

// Wanted gives the entry that is wanted for a key, if one is.
func (m *Mirror[K, V]) Wanted(k K) (V, bool) {
	v, ok := m.want[k]
	return v, ok
}

// Stale gives the entries that the store holds and that are not wanted as they are. It reads the store when the mirror does not
// know it.
func (m *Mirror[K, V]) Stale() (iter.Seq2[K, V], error) {
	if err := m.read(); err != nil {
		return nil, err
	}
	return func(yield func(K, V) bool) {
		for k, has := range m.stale {
			if has.there && !yield(k, has.value) {
				return
			}
		}
	}, nil
}

func (m *Mirror[K, V]) read() error {
	if m.stale != nil {
		return nil
	}
	all, err := m.store.All()
	if err != nil {
		return fmt.Errorf("read map %s: %w", m.name, err)
	}
	m.stale = map[K]held[V]{}
	for k, v := range all {
		if want, ok := m.want[k]; !ok || want != v {
			m.stale[k] = held[V]{v, true}
		}
	}
	for k := range m.want {
		if _, ok := all[k]; !ok {
			m.stale[k] = held[V]{}
		}
	}
	return nil
}

// Put writes what is new or different and leaves the rest. It goes on after a failure, and reports them all; what is no fault
// of an entry it reports once. While the kernel lacks memory it waits, as long as that helps.
func (m *Mirror[K, V]) Put() error {
	if err := m.read(); err != nil {
		return err
	}
	timer := time.NewTimer(refill)
	defer timer.Stop()
	for progress := time.Now(); ; <-timer.C {
		before := len(m.stale)
		err := m.putOnce()
		if !errors.Is(err, ErrNoMemory) || m.stale == nil {
			return err
		}
		if len(m.stale) < before {
			progress = time.Now()
		} else if time.Since(progress) > patience {
			return err
		}
		timer.Reset(refill)
	}
}

func (m *Mirror[K, V]) putOnce() error {
	var errs []error
	var refused error // the last that was no fault of the entry
	for k, has := range m.stale {
		v, ok := m.want[k]
		if !ok || refused != nil && !has.there {
			continue
		}
		err := m.store.Put(k, v)
		switch {
		case err == nil:
			delete(m.stale, k)
		case errors.Is(err, ErrFull):
			refused = err
		case errors.Is(err, ErrNoMemory):
			err = m.refused(err)
			return errors.Join(m.done(errs), err)
		default:
			errs = append(errs, fmt.Errorf("write %v to map %s: %w", k, m.name, err))
		}
	}
	if refused != nil {
		refused = m.refused(refused)
	}
	return errors.Join(m.done(errs), refused)
}

// refused tells how many entries are missing, and why.
func (m *Mirror[K, V]) refused(why error) error {
	count := 0
	for k, has := range m.stale {
		if _, ok := m.want[k]; ok && !has.there {
			count++
		}
	}
	return fmt.Errorf("%d entries are not in map %s: %w", count, m.name, why)
}

// Prune deletes what is not wanted. It goes on after a failure, and reports them all.
func (m *Mirror[K, V]) Prune() error {
	if err := m.read(); err != nil {
		return err
	}
	var errs []error
	for k := range m.stale {
		if _, ok := m.want[k]; ok {
			continue // not written yet
		}
		if err := m.store.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete %v from map %s: %w", k, m.name, err))
			continue
		}
		delete(m.stale, k)
	}
	return m.done(errs)
}

// done distrusts the memory after a failure: somebody else may have changed the store.
func (m *Mirror[K, V]) done(errs []error) error {
	switch {
	case len(errs) > 0:
		m.stale = nil
	case len(m.stale) == 0:
		m.stale = map[K]held[V]{} // the old one keeps room for all that it ever held
	}
	return errors.Join(errs...)
}
