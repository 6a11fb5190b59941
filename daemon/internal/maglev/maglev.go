// SPDX-License-Identifier: Apache-2.0

// Package maglev owns the lookup tables that spread flows over backends (Eisenbud et al., "Maglev: A Fast and Reliable
// Software Network Load Balancer", NSDI 2016, section 3.4). Nodes agree on where a flow goes only because they build the
// same table, so what Build returns for given arguments never changes between releases. It must not read anything but its
// arguments.
package maglev

import "hash/fnv"

// steps are the table sizes. Each is the largest prime below a power of four, and holds 200 slots per backend up to its
// bound: then a backend that goes moves one or two in a hundred of the flows that are not its own. The steps are wide,
// because a change of size moves nearly every slot.
var steps = [...]struct{ backends, slots int }{
	{20, 4_093},
	{80, 16_381},
	{320, 65_521},
	{1_280, 262_139},
	{5_120, 1_048_573},
}

// Size gives the number of slots of a table for so many backends. It is 0 for none, and stops growing beyond 5,120
// backends: the largest table takes 4 MiB, and the price of a backend more is only that shares become less even.
func Size(backends int) int {
	if backends <= 0 {
		return 0
	}
	for _, step := range steps {
		if backends <= step.backends {
			return step.slots
		}
	}
	return steps[len(steps)-1].slots
}

// Build gives a table of Size(len(ids)) slots; each holds a position in ids. Shares differ by one slot at most. The ids are
// what all nodes call the backends, unique and in an order that all nodes agree on. It is nil for no backends.
func Build(seed uint64, ids []string) []uint32 {
	size := uint32(Size(len(ids)))
	if size == 0 {
		return nil
	}
	// Each backend has its own order of preference over the slots: every skip-th one from its start. The size is prime,
	// so that it visits them all.
	next := make([]uint32, len(ids))
	skip := make([]uint32, len(ids))
	for i, id := range ids {
		first := mix(hash(id) ^ seed)
		second := mix(first + golden)
		next[i] = uint32(first % uint64(size))
		skip[i] = uint32(second%uint64(size-1)) + 1
	}
	table := make([]uint32, size)
	taken := make([]bool, size)
	// Backends take turns. Each takes the slot that it prefers most among those that are free.
	for filled := uint32(0); ; {
		for i := range ids {
			slot := next[i]
			for taken[slot] {
				slot = advance(slot, skip[i], size)
			}
			table[slot], taken[slot] = uint32(i), true
			next[i] = advance(slot, skip[i], size)
			if filled++; filled == size {
				return table
			}
		}
	}
}

// advance steps round the table. Subtraction is much cheaper than a division, and both arguments are below size.
func advance(slot, skip, size uint32) uint32 {
	slot += skip
	if slot >= size {
		slot -= size
	}
	return slot
}

// golden separates the two hashes of one id: 2^64 divided by the golden ratio, as in SplitMix64.
const golden = 0x9e3779b97f4a7c15

// hash is FNV-1a with 64 bits. Its specification is closed, unlike hash/maphash, which differs between processes.
func hash(id string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(id)) // never fails: hash.Hash
	return h.Sum64()
}

// mix is the 64-bit finaliser of MurmurHash3. FNV alone leaves ids that differ in their last digit close together.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	return h
}
