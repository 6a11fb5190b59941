// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"testing"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

// sourcePort reads a frame's; 0 if it has none.
func sourcePort(frame []byte) uint16 {
	l4, _ := bpftest.ReadTransport(frame)
	return l4.Src.Port()
}

// Alice's client talks to a VIP and gets her own server: it must look like another host to her, or her stack takes the
// packet for one of its own that came back.
func TestPodTalksToItself(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		tests := map[string]struct{ in, answer bpftest.Packet }{
			"TCP": {
				bpftest.TCP(alice.At(40000), toAlice, "S"),
				bpftest.TCP(alice.At(target), toAlice, "S."),
			},
			"UDP": {
				bpftest.UDP(alice.At(40000), toAlice).Payload("query"),
				bpftest.UDP(alice.At(target), toAlice).Payload("answer"),
			},
		}
		for name, tc := range tests {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, f, bpftest.Config{})
				in := tc.in.From(alice.MAC).To(bpftest.Master)
				answer := tc.answer.From(alice.MAC).To(bpftest.Master)

				first := w.Do(bpftest.Run{Dir: bpftest.Egress, Frame: w.bytes(in)})
				port := sourcePort(first.Frame)
				if port < 49152 {
					t.Errorf("client's port became %d, want one of the dynamic range", port)
				}
				if first.Action != bpftest.ToPods || first.Reason != "NEW_FLOW" {
					t.Errorf("verdict = %s (%s), want redirect to pods (NEW_FLOW)", first.Action, first.Reason)
				}
				out := in.To(alice.MAC).Src(addrPort(vip, port)).Dst(alice.At(target))
				mustEqualFrames(t, "first", w.bytes(out), first.Frame)

				back := answer.Dst(addrPort(vip, port))
				w.mustSteps(t,
					egress(in, bpftest.ToPods, "LOCAL").becomes(out).called("again"),
					egress(back, bpftest.ToPods, "UNNAT").becomes(back.To(alice.MAC).Src(toAlice).Dst(alice.At(40000))))
			})
		}
	})
}

func TestPodTalksToItselfFromTwoPorts(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		in := bpftest.TCP(alice.At(40000), toAlice, "S").From(alice.MAC).To(bpftest.Master)
		one := sourcePort(w.Do(bpftest.Run{Dir: bpftest.Egress, Frame: w.bytes(in)}).Frame)
		two := sourcePort(w.Do(bpftest.Run{Dir: bpftest.Egress, Frame: w.bytes(in.Src(alice.At(40001)))}).Frame)
		if one == two {
			t.Fatalf("both connections got port %d", one)
		}
		for port, client := range map[uint16]uint16{one: 40000, two: 40001} {
			back := bpftest.TCP(alice.At(target), addrPort(vip, port), "S.").From(alice.MAC).To(bpftest.Master)
			w.mustStep(t, egress(back, bpftest.ToPods, "UNNAT").
				becomes(back.To(alice.MAC).Src(toAlice).Dst(alice.At(client))).called(fmt.Sprint("to port ", client)))
		}
	})
}

func TestPodTalksToItselfUntilBothSidesClose(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		in := bpftest.TCP(alice.At(40000), toAlice, "S").From(alice.MAC).To(bpftest.Master).Seq(1)
		port := sourcePort(w.Do(bpftest.Run{Dir: bpftest.Egress, Frame: w.bytes(in)}).Frame)
		back := bpftest.TCP(alice.At(target), addrPort(vip, port), "S.").From(alice.MAC).To(bpftest.Master).Seq(7)
		for _, p := range []bpftest.Packet{back, in.Flags(".").Ack(8), in.Flags("F.").Ack(8), back.Flags("F.")} {
			w.Do(bpftest.Run{Dir: bpftest.Egress, Frame: w.bytes(p)})
		}
		w.mustEqualText(t, "flows", lines(
			fmt.Sprintf("tcp %s > %s => %s:%d > %s to %s hairpin fin peer-fin",
				alice.At(40000), toAlice, vip, port, alice.At(target), alice.MAC),
			fmt.Sprintf("tcp %s > %s:%d => %s > %s to %s reply hairpin fin peer-fin",
				alice.At(target), vip, port, toAlice, alice.At(40000), alice.MAC)), w.Flows(w.LbMaps.Flows))
		w.mustEqualText(t, "half_open", "", w.Flows(w.HalfOpen))
	})
}
