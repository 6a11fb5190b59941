// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/sluice-lb/sluice/bpf"
)

// tables publishes Maglev tables. A changed table is a new inner map under a new id; the service's value, replaced whole,
// then points to it: no packet ever sees half a table, or a table with another's size.
type tables struct {
	outer *ebpf.Map
	inner *ebpf.MapSpec
	have  map[bpf.LbServiceKey]published
}

type published struct {
	id    uint32
	slots slots
}

func newTables(outer *ebpf.Map, inner *ebpf.MapSpec) *tables {
	return &tables{outer: outer, inner: inner, have: map[bpf.LbServiceKey]published{}}
}

// publish writes the tables that changed and sets id and size in services, which has every key of want. A table that cannot be
// made leaves its service with the one that it has.
func (t *tables) publish(want map[bpf.LbServiceKey]slots, services map[bpf.LbServiceKey]bpf.LbService) error {
	var (
		errs  []error
		fresh = map[bpf.LbServiceKey]published{}
		ids   []uint32
		fds   []uint32
	)
	taken := map[uint32]bool{}
	for _, p := range t.have {
		taken[p.id] = true
	}
	for key, s := range want {
		if old, ok := t.have[key]; ok && slices.Equal(old.slots.table, s.table) && slices.Equal(old.slots.ids, s.ids) {
			continue
		}
		m, err := t.build(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		defer m.Close()
		id := drawID(func(id uint32) bool { return taken[id] })
		taken[id] = true
		fresh[key] = published{id: id, slots: s}
		ids = append(ids, id)
		fds = append(fds, uint32(m.FD()))
	}
	if err := t.putAll(ids, fds); err != nil {
		errs = append(errs, err)
	} else {
		maps.Copy(t.have, fresh)
	}
	maps.DeleteFunc(t.have, func(key bpf.LbServiceKey, _ published) bool {
		_, ok := want[key]
		return !ok
	})
	for key, p := range t.have {
		s := services[key]
		s.Table, s.TableSize = p.id, uint32(len(p.slots.table))
		services[key] = s
	}
	return errors.Join(errs...)
}

// prune removes the tables that no service uses any more, among them those of an earlier agent.
func (t *tables) prune() error {
	ids, err := t.ids()
	if err != nil {
		return err
	}
	used := map[uint32]bool{}
	for _, p := range t.have {
		used[p.id] = true
	}
	stale := slices.DeleteFunc(ids, func(id uint32) bool { return used[id] })
	if len(stale) == 0 {
		return nil
	}
	_, err = t.outer.BatchDelete(stale, nil)
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return wrap("delete stale tables", err)
	}
	var errs []error
	for _, id := range stale {
		errs = append(errs, wrap("delete stale table", t.outer.Delete(id)))
	}
	return errors.Join(errs...)
}

// build makes the inner map of a table: slot to backend id.
func (t *tables) build(s slots) (*ebpf.Map, error) {
	spec := t.inner.Copy()
	spec.MaxEntries = uint32(len(s.table))
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("create a table of %d slots: %w", len(s.table), err)
	}
	keys, values := make([]uint32, len(s.table)), make([]uint32, len(s.table))
	for i, position := range s.table {
		keys[i], values[i] = uint32(i), s.ids[position]
	}
	if _, err := m.BatchUpdate(keys, values, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("fill a table of %d slots: %w", len(s.table), err), m.Close())
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
		return wrap("publish tables", err)
	}
	for i := range ids {
		if err := t.outer.Put(ids[i], fds[i]); err != nil {
			return fmt.Errorf("publish table: %w", err)
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
