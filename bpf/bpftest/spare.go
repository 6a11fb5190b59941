// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// spare are copies of the programs whose tests have ended, with empty maps: to load one, and so to have it verified,
// costs more than most tests do. Tests that use them run one after another.
var spare []*LB

// maxServices is how many services a copy sees in its life: their tables stay, because the kernel waits for RCU
// whenever one is removed. Ids of services go on, so a test cannot meet another's table.
const maxServices = 300

// usual tells whether a copy serves every test that asks for nothing in particular.
func (cfg Config) usual() bool {
	return cfg.Ifindex == Loopback && cfg.MaxEntries == nil && cfg.FailHelper == 0 && !cfg.Untouched && !cfg.Silent &&
		cfg.Spec == nil
}

// reuse gives a spare copy, or nil.
func reuse(t testing.TB, cfg Config) *LB {
	if !cfg.usual() || len(spare) == 0 {
		return nil
	}
	lb := spare[len(spare)-1]
	spare = spare[:len(spare)-1]
	lb.t, lb.cfg, lb.backends = t, cfg, 0
	t.Cleanup(lb.release)
	return lb
}

// release ends a test's use of a copy.
func (lb *LB) release() {
	if lb.cfg.usual() && lb.services < maxServices {
		if err := lb.empty(); err != nil {
			lb.t.Errorf("empty the maps for the next test: %v", err)
			return
		}
		clear(lb.newTables)
		clear(lb.pods)
		clear(lb.addresses)
		lb.flags = 0
		lb.cfg.Coverage = nil
		spare = append(spare, lb)
		return
	}
	lb.coll.Close()
	if err := lb.Close(); err != nil {
		lb.t.Errorf("close maps: %v", err)
	}
}

// empty makes the maps as they were when they were loaded, but for tables.
func (lb *LB) empty() error {
	for name, m := range lb.maps {
		var err error
		switch {
		case strings.HasPrefix(name, "."), m.Type() == ebpf.HashOfMaps:
		case m.Type() == ebpf.PerCPUArray:
			err = zero(m)
		case m.Type() == ebpf.Hash, m.Type() == ebpf.LRUHash, m.Type() == ebpf.PerCPUHash,
			m.Type() == ebpf.LPMTrie:
			err = deleteAll(m)
		default:
			err = fmt.Errorf("how to empty a map of type %s is not known here", m.Type())
		}
		if err != nil {
			return fmt.Errorf("map %s: %w", name, err)
		}
	}
	return nil
}

func zero(m *ebpf.Map) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	none := make([][]byte, cpus)
	for i := range none {
		none[i] = make([]byte, m.ValueSize())
	}
	for key := range m.MaxEntries() {
		if err := m.Put(key, none); err != nil {
			return err
		}
	}
	return nil
}

func deleteAll(m *ebpf.Map) error {
	for {
		key, err := m.NextKeyBytes(nil)
		if err != nil || key == nil {
			return err
		}
		if err := m.Delete(key); err != nil {
			return err
		}
	}
}
