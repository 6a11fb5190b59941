// SPDX-License-Identifier: Apache-2.0

// Package vip decides which node answers for a virtual address. It must not know how the answer is carried out, and reads
// no clock and no socket: nodes agree because they compute the same from the same arguments.
package vip

import (
	"cmp"
	"hash/fnv"
	"net/netip"
	"slices"
)

// Rank orders the candidates for an address by rendezvous hashing (Thaler and Ravishankar, 1998), best first: a candidate
// that comes or goes moves only the addresses that are or were its own. The order does not depend on the order of the
// arguments and never changes between releases. A name that occurs twice counts once. The arguments are not changed.
func Rank(vip netip.Addr, candidates []string) []string {
	type scored struct {
		node  string
		score uint64
	}
	ranked := make([]scored, 0, len(candidates))
	for _, node := range candidates {
		ranked = append(ranked, scored{node, score(vip, node)})
	}
	slices.SortFunc(ranked, func(a, b scored) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.node, b.node))
	})
	nodes := make([]string, len(ranked))
	for i, s := range ranked {
		nodes[i] = s.node
	}
	return slices.Compact(nodes)
}

// score is FNV-1a with 64 bits over the address in its 128-bit form and the node's name, through the 64-bit finaliser of
// MurmurHash3. FNV alone would rank nodes alike whose names differ in the last letter. Both are closed specifications.
func score(vip netip.Addr, node string) uint64 {
	h := fnv.New64a()
	addr := vip.As16()
	h.Write(addr[:]) // never fails: hash.Hash
	h.Write([]byte(node))
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return x
}
