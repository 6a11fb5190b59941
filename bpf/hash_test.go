// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/sluice-lb/sluice/bpf/bpftest"
	"github.com/sluice-lb/sluice/internal/ether"
)

// clients are populations whose members differ little: that is where a weak hash shows.
func clients() map[string]func(i int) netip.AddrPort {
	random := rand.New(rand.NewPCG(1, 2))
	base := netip.MustParseAddr("10.0.0.0").As4()
	numbered := func(i int) netip.Addr {
		a := base
		a[1], a[2], a[3] = byte(i>>16), byte(i>>8), byte(i)
		return netip.AddrFrom4(a)
	}
	at := func(a netip.Addr, port int) netip.AddrPort { return netip.AddrPortFrom(a, uint16(port)) }
	return map[string]func(i int) netip.AddrPort{
		"one client, port after port":     func(i int) netip.AddrPort { return at(numbered(7), i) },
		"one client, every second port":   func(i int) netip.AddrPort { return at(numbered(i>>15), 2*i) },
		"one port, address after address": func(i int) netip.AddrPort { return at(numbered(i), 40000) },
		"one port, network after network": func(i int) netip.AddrPort { return at(numbered(i<<8), 40000) },
		"addresses and ports in step":     func(i int) netip.AddrPort { return at(numbered(i), i) },
		"any address, any port": func(int) netip.AddrPort {
			return at(numbered(random.IntN(1<<24)), random.IntN(1<<16))
		},
	}
}

// The programs must pick the slot that the definition names, or nodes with another compiler disagree.
func TestSlotIsTheOneOfTheDefinition(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		const size = 251
		w := newWorld(t, f, bpftest.Config{})
		at := map[uint8]netip.AddrPort{bpftest.ProtoTCP: addrPort(vip, 443), bpftest.ProtoUDP: addrPort(vip, 53)}
		for proto, frontend := range at {
			backends := make([]bpftest.Backend, size)
			for i := range backends {
				p := bpftest.Pod{MAC: ether.MAC{0x06, 0, 0, 0, 0, byte(i)}, Addr: remi.Addr}
				backends[i] = bpftest.Backend{Pod: p, Port: target}
			}
			w.AddService(proto, frontend, backends...)
		}
		for name, population := range clients() {
			t.Run(name, func(t *testing.T) {
				for i := range 400 {
					from := population(i)
					for proto, frontend := range at {
						in := bpftest.TCP(from, frontend, "S")
						if proto == bpftest.ProtoUDP {
							in = bpftest.UDP(from, frontend)
						}
						got := w.Do(bpftest.Run{Dir: bpftest.Ingress, Frame: w.bytes(in.From(router).To(bpftest.Master))})
						if got.Reason != "REMOTE" {
							t.Fatalf("reason = %s, want REMOTE", got.Reason)
						}
						if want := bpftest.Slot(proto, f.at(from), f.at(frontend), size); uint32(got.Frame[5]) != want {
							t.Fatalf("protocol %d, %s > %s: slot %d, want %d", proto, from, frontend, got.Frame[5], want)
						}
					}
				}
			})
		}
	})
}

// Pearson's test: were the slots drawn at random, the sum would be size-1 on average, with a deviation of
// sqrt(2(size-1)). Six deviations would not happen by chance; the populations and so the result are fixed.
func TestSlotsAreSpreadEvenly(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		for _, size := range []uint32{2, 3, 251, 4093, 16381} {
			for name, population := range clients() {
				t.Run(fmt.Sprintf("%d slots, %s", size, name), func(t *testing.T) {
					const flows = 1 << 16
					hits := make([]float64, size)
					for i := range flows {
						hits[bpftest.Slot(bpftest.ProtoTCP, f.at(population(i)), f.at(toAlice), size)]++
					}
					mean, sum := float64(flows)/float64(size), 0.0
					for _, n := range hits {
						sum += (n - mean) * (n - mean) / mean
					}
					freedom := float64(size - 1)
					if limit := freedom + 6*math.Sqrt(2*freedom); sum > limit {
						t.Errorf("chi-square is %.0f, want at most %.0f", sum, limit)
					}
				})
			}
		}
	})
}
