// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/internal/ether"
)

// flowFlagNames are in the order of the bits.
var flowFlagNames = []string{"reply", "hairpin", "fin", "peer-fin", "reset", "synack-seen"}

// Flows writes a map of flows, one sorted line each: the tuple as it arrives, the tuple as it leaves, the new destination
// MAC, and the flags. Times are left out.
func (lb *LB) Flows(m *ebpf.Map) string {
	lb.t.Helper()
	var lines []string
	for key, f := range lb.flows(m) {
		line := fmt.Sprintf("%s => %s > %s", tuple(key), at(f.Src, f.Sport), at(f.Dst, f.Dport))
		if mac := ether.MAC(f.Mac); !mac.IsZero() {
			line += " to " + mac.String()
		}
		for bit, name := range flowFlagNames {
			if f.Flags&(1<<bit) != 0 {
				line += " " + name
			}
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Choices writes the map of selections, one sorted line each.
func (lb *LB) Choices() string {
	lb.t.Helper()
	var lines []string
	var key bpf.LbFlowKey
	var s bpf.LbSelection
	it := lb.Selections.Iterate()
	for it.Next(&key, &s) {
		line := fmt.Sprintf("%s => backend %d", tuple(key), s.Backend)
		if s.Flags&uint32(bpf.LbSelectionFlagSELECTION_ESTABLISHED) != 0 {
			line += " established"
		}
		lines = append(lines, line)
	}
	if err := it.Err(); err != nil {
		lb.t.Fatalf("read selections: %v", err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Forget empties the maps of flows, of selections and of affinities.
func (lb *LB) Forget() {
	lb.t.Helper()
	for _, m := range []*ebpf.Map{lb.LbMaps.Flows, lb.HalfOpen, lb.Datagrams, lb.Selections} {
		var keys []bpf.LbFlowKey
		key, value := bpf.LbFlowKey{}, make([]byte, m.ValueSize())
		it := m.Iterate()
		for it.Next(&key, &value) {
			keys = append(keys, key)
		}
		if err := it.Err(); err != nil {
			lb.t.Fatalf("read %s: %v", m, err)
		}
		for _, k := range keys {
			if err := m.Delete(k); err != nil {
				lb.t.Fatalf("empty %s: %v", m, err)
			}
		}
	}
	for key := range lb.affinities() {
		lb.remove(lb.LbMaps.Affinities, key)
	}
}

// AddFlow puts a tuple into flows that no packet of the test belongs to; it only takes its place.
func (lb *LB) AddFlow(proto uint8, src, dst netip.AddrPort) {
	lb.t.Helper()
	key := bpf.LbFlowKey{
		Src: address(src.Addr()), Dst: address(dst.Addr()), Ifindex: lb.cfg.Ifindex,
		Sport: port(src.Port()), Dport: port(dst.Port()), Proto: proto,
	}
	lb.put(lb.LbMaps.Flows, key, bpf.LbFlow{})
}

// Age makes the flows of a map look as if their last packet were that many seconds older.
func (lb *LB) Age(m *ebpf.Map, seconds uint32) {
	lb.t.Helper()
	for key, f := range lb.flows(m) {
		f.Seen -= seconds
		lb.put(m, key, f)
	}
}

func (lb *LB) flows(m *ebpf.Map) map[bpf.LbFlowKey]bpf.LbFlow {
	lb.t.Helper()
	out := make(map[bpf.LbFlowKey]bpf.LbFlow)
	var key bpf.LbFlowKey
	var value bpf.LbFlow
	it := m.Iterate()
	for it.Next(&key, &value) {
		out[key] = value
	}
	if err := it.Err(); err != nil {
		lb.t.Fatalf("read %s: %v", m, err)
	}
	return out
}

func tuple(k bpf.LbFlowKey) string {
	name := map[uint8]string{ProtoTCP: "tcp", ProtoUDP: "udp"}[k.Proto]
	return fmt.Sprintf("%s %s > %s", name, at(k.Src, k.Sport), at(k.Dst, k.Dport))
}

func at(a bpf.LbAddress, p uint16) netip.AddrPort {
	return netip.AddrPortFrom(toAddr(a), port(p))
}
