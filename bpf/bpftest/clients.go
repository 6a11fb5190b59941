// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/sluice-lb/sluice/bpf"
)

// Restrict lets only clients of these prefixes open flows, from now on. Prefixes of IPv4 are those of IPv4's clients.
func (s *Service) Restrict(prefixes ...netip.Prefix) {
	s.lb.t.Helper()
	s.clients.Flags |= uint32(bpf.LbServiceFlagSERVICE_RANGES)
	for _, p := range prefixes {
		bits := 128 - p.Addr().BitLen() + p.Bits()
		key := bpf.LbAllowedKey{PrefixLen: uint32(32 + bits), Service: s.id, Addr: address(p.Addr())}
		s.lb.put(s.lb.Allowed, key, uint32(1))
	}
	s.write()
}

// KeepClients lets a client's flows go to one pod, for so many units of 2^30 ns after its last new one.
func (s *Service) KeepClients(units uint32) {
	s.lb.t.Helper()
	s.clients.Flags |= uint32(bpf.LbServiceFlagSERVICE_AFFINITY)
	s.clients.Affinity = units
	s.write()
}

// write puts the service into its map, with the current table.
func (s *Service) write() {
	s.lb.t.Helper()
	value := s.made[s.current]
	value.Flags, value.Affinity = s.clients.Flags, s.clients.Affinity
	s.lb.put(s.lb.Services, s.key, value)
}

// Affinities writes which backends clients are kept with, one sorted line each. Times are left out.
func (lb *LB) Affinities() string {
	lb.t.Helper()
	var lines []string
	for key, a := range lb.affinities() {
		lines = append(lines, fmt.Sprintf("%s service %d => backend %d", toAddr(key.Client), key.Service, a.Backend))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// AgeAffinities makes the clients' last new flows look so many units of 2^30 ns older.
func (lb *LB) AgeAffinities(units uint32) {
	lb.t.Helper()
	for key, a := range lb.affinities() {
		a.Seen -= units
		lb.put(lb.LbMaps.Affinities, key, a)
	}
}

func (lb *LB) affinities() map[bpf.LbAffinityKey]bpf.LbAffinity {
	lb.t.Helper()
	out := make(map[bpf.LbAffinityKey]bpf.LbAffinity)
	var key bpf.LbAffinityKey
	var value bpf.LbAffinity
	it := lb.LbMaps.Affinities.Iterate()
	for it.Next(&key, &value) {
		out[key] = value
	}
	if err := it.Err(); err != nil {
		lb.t.Fatalf("read affinities: %v", err)
	}
	return out
}

// Answer is a kind of packets that the programs make up by themselves; each kind has its own limit.
type Answer = bpf.LbAnswer

// The kinds.
const (
	Echoes       = bpf.LbAnswerANSWER_ECHO
	Resets       = bpf.LbAnswerANSWER_RESET
	Unreachables = bpf.LbAnswerANSWER_UNREACHABLE
)

// Allow lets the programs give as many answers of a kind as the limit has it, from now on; or, in the test's lifetime,
// none any more.
func (lb *LB) Allow(kind Answer, yes bool) {
	lb.t.Helper()
	bucket := bpf.LbBucket{} // time has filled it since the machine started
	if !yes {
		bucket.Saved = math.MinInt64 / 2
	}
	perCPU := make([]bpf.LbBucket, ebpf.MustPossibleCPU())
	for i := range perCPU {
		perCPU[i] = bucket
	}
	lb.put(lb.Buckets, uint32(kind), perCPU)
}
