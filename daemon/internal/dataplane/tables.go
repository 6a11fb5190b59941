// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/sluice-lb/sluice/daemon/internal/dataplane/mirror"
)

// tables publishes Maglev tables. A changed table is a new inner map under a new id; the service's value, replaced whole,
// then points to it: no packet ever sees half a table, or a table with another's size. What is in a table only the kernel
// remembers.
type tables struct {
	outer *ebpf.Map
	inner *ebpf.MapSpec
	used  map[uint32]bool // ids that services shall use
	stale map[uint32]bool // ids that no service shall use any more; nil: to be looked for in the outer map
}

// published is a table that is in the outer map; zero is none.
type published struct{ id, size uint32 }

func newTables(outer *ebpf.Map, inner *ebpf.MapSpec) *tables {
	return &tables{outer: outer, inner: inner, used: map[uint32]bool{}}
}

// tableBatch bounds how many tables are made before they are published: each is an open file until then.
const tableBatch = 256

// publish makes the tables of frontends. One whose table cannot be made keeps the one that it has, and stays due.
func (t *tables) publish(due []*frontend) error {
	if err := t.sweep(); err != nil {
		return err
	}
	var errs []error
	for batch := range slices.Chunk(due, tableBatch) {
		errs = append(errs, t.publishBatch(batch))
	}
	return errors.Join(errs...)
}

func (t *tables) publishBatch(batch []*frontend) error {
	var (
		errs  []error
		fresh []*frontend
		made  []published
		ids   []uint32
		fds   []uint32
	)
	for _, f := range batch {
		table := f.Table()
		if len(table) == 0 {
			t.replace(f, published{})
			continue
		}
		m, err := t.build(table, f.ids)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		defer m.Close()
		id := drawID(func(id uint32) bool { return t.used[id] || t.stale[id] || slices.Contains(ids, id) })
		fresh, made = append(fresh, f), append(made, published{id: id, size: uint32(len(table))})
		ids, fds = append(ids, id), append(fds, uint32(m.FD()))
	}
	if err := t.putAll(ids, fds); err != nil {
		t.stale = nil // some may be there
		return errors.Join(append(errs, err)...)
	}
	for i, f := range fresh {
		t.replace(f, made[i])
	}
	return errors.Join(errs...)
}

func (t *tables) replace(f *frontend, now published) {
	t.drop(f.table)
	f.table, f.due = now, false
	if now.id != 0 {
		t.used[now.id] = true
	}
}

// drop lets prune remove a table.
func (t *tables) drop(p published) {
	if p.id != 0 {
		delete(t.used, p.id)
		if t.stale != nil {
			t.stale[p.id] = true
		}
	}
}

// sweep finds the tables that no service shall use, among them those of an earlier agent.
func (t *tables) sweep() error {
	if t.stale != nil {
		return nil
	}
	ids, err := t.ids()
	if err != nil {
		return err
	}
	t.stale = map[uint32]bool{}
	for _, id := range ids {
		if !t.used[id] {
			t.stale[id] = true
		}
	}
	return nil
}

// prune removes the tables that no service uses any more.
func (t *tables) prune() error {
	if err := t.sweep(); err != nil || len(t.stale) == 0 {
		return err
	}
	if err := t.deleteAll(slices.Collect(maps.Keys(t.stale))); err != nil {
		t.stale = nil
		return err
	}
	clear(t.stale)
	return nil
}

func (t *tables) deleteAll(ids []uint32) error {
	_, err := t.outer.BatchDelete(ids, nil)
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return wrap("delete stale tables", err)
	}
	var errs []error
	for _, id := range ids {
		errs = append(errs, wrap("delete stale table", t.outer.Delete(id)))
	}
	return errors.Join(errs...)
}

// build makes the inner map of a table: slot to backend id.
func (t *tables) build(table, ids []uint32) (*ebpf.Map, error) {
	spec := t.inner.Copy()
	spec.MaxEntries = uint32(len(table))
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("create a table of %d slots: %w", len(table), err)
	}
	keys := make([]uint32, len(table))
	for i, position := range table {
		keys[i], table[i] = uint32(i), ids[position]
	}
	if _, err := m.BatchUpdate(keys, table, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("fill a table of %d slots: %w", len(table), err), m.Close())
	}
	return m, nil
}

// putAll adds tables to the outer map, in one call where the kernel can: each single write waits for RCU (10 ms and more),
// a batch waits once.
func (t *tables) putAll(ids, fds []uint32) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := t.outer.BatchUpdate(ids, fds, nil)
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return wrap("publish tables", mirror.Explain(t.outer, err))
	}
	for i := range ids {
		if err := t.outer.Put(ids[i], fds[i]); err != nil {
			return fmt.Errorf("publish table: %w", mirror.Explain(t.outer, err))
		}
	}
	return nil
}

func (t *tables) ids() ([]uint32, error) {
	var (
		ids  []uint32
		id   uint32
		fd   uint32
		iter = t.outer.Iterate()
	)
	for iter.Next(&id, &fd) {
		ids = append(ids, id)
	}
	return ids, wrap("list tables", iter.Err())
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
