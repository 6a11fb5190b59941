// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/sluice-lb/sluice/bpf/bpftest"
	"github.com/sluice-lb/sluice/internal/ether"
)

// rangePaths are packets to a Service that serves some clients alone.
func rangePaths(f family) map[string]path {
	few := func(w *world) {
		for _, proto := range []uint8{bpftest.ProtoTCP, bpftest.ProtoUDP} {
			w.AddService(proto, toFew, bpftest.Backend{Pod: alice, Port: target, Local: true}).Restrict(ranges(f)...)
		}
	}
	in, far := fromClient(toFew, "S"), fromClient(toFew, "S").Src(farClient)
	query := bpftest.UDP(farClient, toFew).From(router).To(bpftest.Master)
	bobs := fromClient(toFew, "S").Src(bob.At(40000)).From(bob.MAC)
	nodes := fromClient(toFew, "S").Src(addrPort(node, 40000)).From(bpftest.Master)
	restricted := func(steps ...step) path { return path{setup: few, steps: steps} }
	return map[string]path{
		"in a range":      restricted(ingress(in, bpftest.OK, "NEW_FLOW").becomes(atAlice(in))),
		"a pod in one":    restricted(egress(bobs, bpftest.ToPods, "NEW_FLOW").becomes(atAlice(bobs))),
		"in none":         restricted(bothWays(far, bpftest.Drop, "SOURCE")...),
		"in none, by UDP": restricted(bothWays(query, bpftest.Drop, "SOURCE")...),
		"the node":        restricted(egress(nodes, bpftest.Drop, "SOURCE")),
		"in none, chosen by an owner": restricted(
			ingress(far.From(peer).To(alice.MAC), bpftest.Drop, "SOURCE")),
		"in none, and no backend": {
			setup: func(w *world) { w.AddService(bpftest.ProtoTCP, toFew).Restrict(ranges(f)...) },
			steps: bothWays(far, bpftest.Drop, "SOURCE"),
		},
		"nobody is let in": {
			setup: func(w *world) {
				w.AddService(bpftest.ProtoTCP, toFew, bpftest.Backend{Pod: alice, Port: target, Local: true}).Restrict()
			},
			steps: bothWays(in, bpftest.Drop, "SOURCE"),
		},
		"of another Service": {
			setup: func(w *world) { w.tcp[toBob].Restrict(ranges(f)...) },
			steps: []step{
				ingress(fromClient(toAlice, "S").Src(farClient), bpftest.OK, "NEW_FLOW").
					becomes(atAlice(fromClient(toAlice, "S").Src(farClient))),
				ingress(fromClient(toBob, "S").Src(farClient), bpftest.Drop, "SOURCE"),
			},
		},
	}
}

// A range that comes later bars new flows alone.
func TestFlowsOutliveARange(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		w.mustSteps(t, handshake(toAlice)...)
		w.mustSteps(t, sentTo(remi, "S"), sentTo(remi, "."))
		w.tcp[toAlice].Restrict()
		w.tcp[toRemi].Restrict()
		w.mustSteps(t, delivered("P.", "LOCAL"), returned("P."), sentTo(remi, "P."))
		w.mustSteps(t,
			ingress(fromClient(toAlice, "S").Src(fromPort(40001)), bpftest.Drop, "SOURCE"),
			ingress(fromClient(toRemi, "S"), bpftest.Drop, "SOURCE")) // the client uses its port anew
	})
}

func TestRangesOfEveryLength(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		whole := f.addr(client.Addr())
		for bits := 0; bits <= whole.BitLen(); bits++ {
			at := addrPort(vip, uint16(1000+bits))
			s := w.AddService(bpftest.ProtoUDP, at, bpftest.Backend{Pod: alice, Port: target, Local: true})
			s.Restrict(netip.PrefixFrom(whole, bits))
			in := bpftest.UDP(client, at).From(router).To(bpftest.Master)
			if got := w.Do(bpftest.Run{Dir: bpftest.Ingress, Frame: w.bytes(in)}); got.Reason == "SOURCE" {
				t.Errorf("/%d does not let its own address in", bits)
			}
			if bits == 0 {
				continue
			}
			octets := whole.AsSlice() // the address that differs in the last bit that counts
			octets[(bits-1)/8] ^= 0x80 >> ((bits - 1) % 8)
			near, _ := netip.AddrFromSlice(octets)
			got := w.Do(bpftest.Run{Dir: bpftest.Ingress, Frame: from(near, f, in).Bytes()})
			if got.Reason != "SOURCE" {
				t.Errorf("/%d lets %s in (%s)", bits, near, got.Reason)
			}
		}
	})
}

// keeping is a Service on toKept with many backends elsewhere, each with its position as the last octet of its MAC.
func keeping(w *world, proto uint8, size int, units uint32) *service {
	backends := make([]bpftest.Backend, size)
	for i := range backends {
		p := bpftest.Pod{MAC: ether.MAC{0x06, 0, 0, 0, 0, byte(i)}, Addr: remi.Addr}
		backends[i] = bpftest.Backend{Pod: p, Port: target}
	}
	s := w.AddService(proto, toKept, backends...)
	s.KeepClients(units)
	return s
}

// mustGo gives the backend that a client's first packet from a port goes to.
func (w *world) mustGo(t *testing.T, from netip.Addr, port uint16) int {
	t.Helper()
	in := bpftest.TCP(addrPort(from, port), toKept, "S").From(router).To(bpftest.Master)
	got := w.Do(bpftest.Run{Dir: bpftest.Ingress, Frame: w.bytes(in)})
	if got.Reason != "REMOTE" {
		t.Fatalf("%s from port %d: %s, want REMOTE", from, port, got.Reason)
	}
	return int(got.Frame[5])
}

func TestAffinity(t *testing.T) {
	const size, units = 250, 10
	turned := make([]int, size) // a table in which everybody has another place
	for i := range turned {
		turned[i] = (i + 7) % size
	}
	eachFamily(t, func(t *testing.T, f family) {
		home := int(bpftest.ClientSlot(f.addr(client.Addr()), size))
		moved := turned[home]
		tests := map[string]struct {
			change func(w *world, s *service)
			want   int
		}{
			"nothing changes":            {func(*world, *service) {}, home},
			"the table changes":          {func(_ *world, s *service) { s.SetTable(turned...) }, home},
			"there is no table any more": {func(_ *world, s *service) { s.SetTable() }, home},
			"just before it ends": {
				func(w *world, s *service) { s.SetTable(turned...); w.AgeAffinities(units - 1) }, home,
			},
			"when it has ended": {func(w *world, s *service) { s.SetTable(turned...); w.AgeAffinities(units + 2) }, moved},
			"its pod leaves": {func(_ *world, s *service) {
				s.SetTable(turned...)
				p := bpftest.Pod{MAC: ether.MAC{0x06, 0, 0, 0, 0, byte(home)}, Addr: remi.Addr}
				s.SetBackend(home, bpftest.Backend{Pod: p, Port: target, Leaves: true})
			}, moved},
			"its pod is gone": {func(_ *world, s *service) { s.SetTable(turned...); s.RemoveBackend(home) }, moved},
		}
		for name, tc := range tests {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, f, bpftest.Config{})
				s := keeping(w, bpftest.ProtoTCP, size, units)
				for port := uint16(1); port < 20; port++ {
					if got := w.mustGo(t, client.Addr(), port); got != home {
						t.Fatalf("port %d went to pod %d, want %d as all", port, got, home)
					}
				}
				tc.change(w, s)
				if got := w.mustGo(t, client.Addr(), 20); got != tc.want {
					t.Errorf("a new flow went to pod %d, want %d", got, tc.want)
				}
				if got := w.mustGo(t, client.Addr(), 21); got != tc.want {
					t.Errorf("the next one went to pod %d, want %d", got, tc.want)
				}
			})
		}
	})
}

// Its time begins anew with each new flow, and not with each packet.
func TestAffinityLastsFromTheLastNewFlow(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		const size, units = 250, 100
		w := newWorld(t, f, bpftest.Config{})
		s := keeping(w, bpftest.ProtoTCP, size, units)
		home := w.mustGo(t, client.Addr(), 1)
		s.SetTable((home + 1) % size)
		for port := uint16(2); port < 5; port++ {
			w.AgeAffinities(units * 2 / 3)
			if got := w.mustGo(t, client.Addr(), port); got != home {
				t.Fatalf("port %d went to pod %d, want %d still", port, got, home)
			}
		}
		w.AgeAffinities(units * 2 / 3)
		if got := w.mustGo(t, client.Addr(), 1); got != home {
			t.Fatalf("the first flow moved to pod %d, want %d", got, home)
		}
		w.AgeAffinities(units * 2 / 3)
		if got := w.mustGo(t, client.Addr(), 5); got == home {
			t.Error("a packet of an old flow kept the client")
		}
	})
}

// Each client has a slot by its address alone, and all nodes agree on it.
func TestClientSlotIsTheOneOfTheDefinition(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		const size = 251
		w := newWorld(t, f, bpftest.Config{})
		keeping(w, bpftest.ProtoTCP, size, 100)
		used := map[int]bool{}
		for i := range 300 {
			a := netip.AddrFrom4([4]byte{10, byte(i >> 4), 0, byte(i)})
			got, want := w.mustGo(t, a, 40000), int(bpftest.ClientSlot(f.addr(a), size))
			if got != want {
				t.Errorf("%s went to pod %d, want %d", f.addr(a), got, want)
			}
			used[got] = true
		}
		if len(used) < size/2 {
			t.Errorf("300 clients went to %d pods of %d", len(used), size)
		}
	})
}

// Switching it on or off concerns new flows alone.
func TestFlowsOutliveAChangeOfAffinity(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		w.mustSteps(t, handshake(toAlice)...)
		w.mustSteps(t, sentTo(remi, "S"), sentTo(remi, "."))
		local, remote := w.tcp[toAlice], w.tcp[toRemi]
		for _, s := range []*service{local, remote} {
			s.KeepClients(100)
			s.SetTable(s.AddBackend(bpftest.Backend{Pod: zoe, Port: target}))
		}
		w.mustSteps(t, delivered("P.", "LOCAL"), returned("P."), sentTo(remi, "P."))
		w.mustEqualText(t, "affinities", "", w.Affinities())
	})
}
