// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf/asm"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

// Frames that end anywhere: what is cut off within a header is left alone, down to the last octet.
func TestFramesCutOffAtEveryLength(t *testing.T) {
	const ethernet, ipv4 = 14, 20
	const least = ethernet + ipv4 // a test run takes no shorter IPv4 frame
	syn := fromClient(toAlice, "S").TCPOptions(2, 4, 5, 0xb4)
	datagram := bpftest.UDP(client, toAlice).From(router).To(bpftest.Master).Payload("query")
	options := syn.IPOptions(1, 1, 1, 0, 1, 1, 1, 0)
	tests := map[string]struct {
		in      bpftest.Packet
		dir     bpftest.Direction
		enough  int // octets up to which nothing can be done
		action  bpftest.Action
		reason  string
		setup   []step
		lacking string // reason of a frame that is too short
	}{
		"TCP":            {syn, bpftest.Ingress, ethernet + ipv4 + 20, bpftest.OK, "NEW_FLOW", nil, "MALFORMED"},
		"TCP from a pod": {syn, bpftest.Egress, ethernet + ipv4 + 20, bpftest.ToPods, "NEW_FLOW", nil, "MALFORMED"},
		"UDP":            {datagram, bpftest.Ingress, ethernet + ipv4 + 8, bpftest.OK, "NEW_FLOW", nil, "MALFORMED"},
		"IP options":     {options, bpftest.Ingress, ethernet + ipv4 + 8 + 20, bpftest.OK, "NEW_FLOW", nil, "MALFORMED"},
		"reply":          {fromAlice("."), bpftest.Egress, ethernet + ipv4 + 20, bpftest.OK, "UNNAT", handshake(toAlice), "MALFORMED"},
		"ICMP":           {ip(bpftest.ProtoICMP), bpftest.Ingress, ethernet + ipv4, bpftest.Drop, "UNSUPPORTED_PROTOCOL", nil, "MALFORMED"},
		"ARP":            {ask(neighbour, vip), bpftest.Ingress, ethernet + 28, bpftest.ToWire, "ARP_REPLY", nil, "MALFORMED"},
		"LLDP":           {bpftest.Frame(0x88cc, make([]byte, 60)).From(router).To(other), bpftest.Ingress, ethernet, bpftest.PassOn, "MISS", nil, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, bpftest.Config{})
			w.mustSteps(t, tc.setup...)
			whole := tc.in.Bytes()
			for n := ethernet + 1; n <= len(whole); n++ {
				run := bpftest.Run{Dir: tc.dir, Frame: whole[:n]}
				if n < least {
					run.Frame = whole
					run.Program = mustCallFirst(t, asm.FnSkbChangeTail, int32(n), 0, w.Program("lb_"+string(tc.dir)))
				}
				got, err := w.Try(run)
				if err != nil {
					t.Fatalf("%d octets: %v", n, err)
				}
				if n < tc.enough {
					if got.Action != bpftest.PassOn || got.Reason != tc.lacking {
						t.Errorf("%d octets: verdict = %s (%s), want pass on (%s)", n, got.Action, got.Reason, tc.lacking)
					}
					mustEqualFrames(t, fmt.Sprintf("%d octets", n), whole[:n], got.Frame)
					continue
				}
				reason := tc.reason
				if reason == "NEW_FLOW" && n > tc.enough {
					reason = "LOCAL"
				}
				if got.Action != tc.action || got.Reason != reason {
					t.Errorf("%d octets: verdict = %s (%s), want %s (%s)", n, got.Action, got.Reason, tc.action, reason)
				}
				if len(got.Frame) != n {
					t.Errorf("%d octets became %d", n, len(got.Frame))
				}
			}
		})
	}
}

func TestHeadersThatContradictThemselves(t *testing.T) {
	w := newWorld(t, bpftest.Config{})
	short := fromClient(toAlice, "S").Bytes()
	short[14] = 4<<4 | 4 // a header of 16 octets
	for name, frame := range map[string][]byte{
		"IP version 6 in an IPv4 frame": fromClient(toAlice, "S").Version(6).Bytes(),
		"IP version 0":                  fromClient(toAlice, "S").Version(0).Bytes(),
		"IP header shorter than itself": short,
	} {
		for _, dir := range []bpftest.Direction{bpftest.Ingress, bpftest.Egress} {
			got := w.Do(bpftest.Run{Dir: dir, Frame: frame})
			if got.Action != bpftest.PassOn || got.Reason != "MALFORMED" {
				t.Errorf("%s at %s: verdict = %s (%s), want pass on (MALFORMED)", name, dir, got.Action, got.Reason)
			}
			mustEqualFrames(t, name, frame, got.Frame)
		}
	}
}
