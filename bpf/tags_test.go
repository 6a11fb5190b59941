// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"github.com/cilium/ebpf/asm"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

// Tag control information: of VLAN 7, and of no VLAN but with a priority.
const (
	inVLAN7  = 5<<13 | 7
	priority = 5 << 13
)

// taggedPaths are frames with a tag among their octets, as a pod may send them. A priority tag is gone from the octets
// afterwards: the kernel keeps it beside the frame, where no test run shows it. The netns tests see it on the wire.
func taggedPaths(f family) map[string]path {
	plain := fromClient(toAlice, "S")
	remote := bpftest.TCP(bob.At(40000), toRemi, "S").From(bob.MAC).To(bpftest.Master)
	foreign := fromAlice("S")
	return map[string]path{
		"of a VLAN":         {steps: bothWays(plain.Tag(bpftest.EtherVLAN, inVLAN7), bpftest.PassOn, "TAGGED")},
		"of a service VLAN": {steps: bothWays(plain.Tag(bpftest.EtherSVID, inVLAN7), bpftest.PassOn, "TAGGED")},
		"of two": {steps: bothWays(plain.Tag(bpftest.EtherVLAN, inVLAN7).Tag(bpftest.EtherSVID, inVLAN7),
			bpftest.PassOn, "TAGGED")},
		"of a VLAN, under a priority": one(
			egress(plain.Tag(bpftest.EtherVLAN, inVLAN7).Tag(bpftest.EtherVLAN, priority), bpftest.PassOn, "TAGGED").
				becomes(plain.Tag(bpftest.EtherVLAN, inVLAN7))),
		"cut off in the tag": {steps: bothWays(
			plain.Tag(bpftest.EtherVLAN, priority).Truncate(17), bpftest.PassOn, "TAGGED")},
		"to the node, of a VLAN": one(
			egress(foreign.To(bpftest.Master).Tag(bpftest.EtherVLAN, inVLAN7), bpftest.PassOn, "TAGGED")),
		"priority": one(
			egress(remote.Tag(bpftest.EtherVLAN, priority), bpftest.OK, "REMOTE").
				becomes(remote.From(bpftest.Master).To(remi.MAC))),
		"priority of a service tag": one(
			egress(remote.Tag(bpftest.EtherSVID, priority), bpftest.OK, "REMOTE").
				becomes(remote.From(bpftest.Master).To(remi.MAC))),
		"priority, none of ours": one(
			egress(foreign.Tag(bpftest.EtherVLAN, priority), bpftest.PassOn, "MISS").becomes(foreign)),
		"priority, asking for a VIP": one(
			egress(f.ask(bob, vip).Tag(bpftest.EtherVLAN, priority), bpftest.ToPods, f.answered()).
				becomes(f.tell(bob, vip, bpftest.Master))),
		"cut off behind a priority": one(
			egress(plain.Tag(bpftest.EtherVLAN, priority).Truncate(18), bpftest.PassOn, "MALFORMED").
				becomes(plain.Truncate(14))),
	}
}

// A test run cannot be given a packet whose tag the kernel took off; a program in front pushes one there.
func testTagBeside(t *testing.T, f family, coverage *bpftest.Coverage) {
	in := fromClient(toRemi, "S")
	for _, tc := range []struct {
		tci    int32
		dir    bpftest.Direction
		action bpftest.Action
		reason string
		out    bpftest.Packet
	}{
		{inVLAN7, bpftest.Ingress, bpftest.PassOn, "TAGGED", in},
		{inVLAN7, bpftest.Egress, bpftest.PassOn, "TAGGED", in},
		{priority, bpftest.Ingress, bpftest.ToWire, "REMOTE", in.From(bpftest.Master).To(remi.MAC)},
		{priority, bpftest.Egress, bpftest.OK, "REMOTE", in.From(bpftest.Master).To(remi.MAC)},
	} {
		w := newWorld(t, f, bpftest.Config{Coverage: coverage})
		const protocol = 0x0081 // 802.1Q in network order
		front := mustCallFirst(t, asm.FnSkbVlanPush, protocol, tc.tci, w.Program("lb_"+string(tc.dir)))
		got := w.Do(bpftest.Run{Dir: tc.dir, Frame: w.bytes(in), Program: front})
		if got.Action != tc.action || got.Reason != tc.reason {
			t.Errorf("%s, tag %#04x: verdict = %s (%s), want %s (%s)", tc.dir, tc.tci, got.Action, got.Reason, tc.action, tc.reason)
		}
		mustEqualFrames(t, string(tc.dir), w.bytes(tc.out), got.Frame)
	}
}

// A kernel that refuses to take the tag out leaves the frame as it is, and so do we.
func testTagThatStays(t *testing.T, f family, coverage *bpftest.Coverage) {
	w := newWorld(t, f, bpftest.Config{FailHelper: asm.FnSkbVlanPop, Coverage: coverage})
	w.mustSteps(t, bothWays(fromClient(toRemi, "S").Tag(bpftest.EtherVLAN, priority), bpftest.PassOn, "TAGGED")...)
}
