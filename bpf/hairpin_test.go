// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"testing"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

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

				port := w.mustHairpin(t, egress(in, bpftest.ToPods, "NEW_FLOW"), alice)
				out := in.To(alice.MAC).Src(addrPort(vip, port)).Dst(alice.At(target))
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
		one := w.mustHairpin(t, egress(in, bpftest.ToPods, "NEW_FLOW"), alice)
		two := w.mustHairpin(t, egress(in.Src(alice.At(40001)), bpftest.ToPods, "NEW_FLOW"), alice)
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
		port := w.mustHairpin(t, egress(in, bpftest.ToPods, "NEW_FLOW"), alice)
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

// mustHairpin runs the first packet of a flow to a pod, whose client gets the VIP as address, and gives the client's new
// port.
func (w *world) mustHairpin(t *testing.T, s step, to bpftest.Pod) uint16 {
	t.Helper()
	got := w.Do(bpftest.Run{Dir: s.dir, Frame: w.bytes(s.in)})
	if got.Action != s.action || got.Reason != s.reason {
		t.Fatalf("verdict = %s (%s), want %s (%s)", got.Action, got.Reason, s.action, s.reason)
	}
	port := sourcePort(got.Frame)
	if port < 49152 {
		t.Fatalf("the client's port became %d, want one of the dynamic range", port)
	}
	mustEqualFrames(t, "first", w.bytes(s.in.To(to.MAC).Src(addrPort(vip, port)).Dst(to.At(target))), got.Frame)
	return port
}

// sourcePort reads a frame's; 0 if it has none.
func sourcePort(frame []byte) uint16 {
	l4, _ := bpftest.ReadTransport(frame)
	return l4.Src.Port()
}
