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
	lldp := bpftest.Frame(0x88cc, make([]byte, 60)).From(router).To(other)
	const tcp = least + 20
	type want struct {
		enough int // octets; with less, nothing can be done
		step   step
		lack   string // the reason then
		before []step
	}
	tests := map[string]want{
		"TCP":            {tcp, ingress(syn, bpftest.OK, "NEW_FLOW"), "MALFORMED", nil},
		"TCP from a pod": {tcp, egress(syn, bpftest.ToPods, "NEW_FLOW"), "MALFORMED", nil},
		"UDP":            {least + 8, ingress(datagram, bpftest.OK, "NEW_FLOW"), "MALFORMED", nil},
		"IP options":     {tcp + 8, ingress(options, bpftest.OK, "NEW_FLOW"), "MALFORMED", nil},
		"reply":          {tcp, egress(fromAlice("."), bpftest.OK, "UNNAT"), "MALFORMED", handshake(toAlice)},
		"ICMP":           {least, ingress(ip(bpftest.ProtoICMP), bpftest.Drop, "UNSUPPORTED_PROTOCOL"), "MALFORMED", nil},
		"ARP":            {ethernet + 28, ingress(ask(neighbour, vip), bpftest.ToWire, "ARP_REPLY"), "MALFORMED", nil},
		"LLDP":           {ethernet, ingress(lldp, bpftest.PassOn, "MISS"), "", nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, bpftest.Config{})
			w.mustSteps(t, tc.before...)
			whole := tc.step.in.Bytes()
			for n := ethernet + 1; n <= len(whole); n++ {
				run := bpftest.Run{Dir: tc.step.dir, Frame: whole[:n]}
				if n < least {
					run.Frame = whole
					run.Program = mustCallFirst(t, asm.FnSkbChangeTail, int32(n), 0, w.Program("lb_"+string(tc.step.dir)))
				}
				got, err := w.Try(run)
				if err != nil {
					t.Fatalf("%d octets: %v", n, err)
				}
				if n < tc.enough {
					if got.Action != bpftest.PassOn || got.Reason != tc.lack {
						t.Errorf("%d octets: verdict = %s (%s), want pass on (%s)", n, got.Action, got.Reason, tc.lack)
					}
					mustEqualFrames(t, fmt.Sprintf("%d octets", n), whole[:n], got.Frame)
					continue
				}
				reason := tc.step.reason
				if reason == "NEW_FLOW" && n > tc.enough {
					reason = "LOCAL"
				}
				if got.Action != tc.step.action || got.Reason != reason {
					t.Errorf("%d octets: verdict = %s (%s), want %s (%s)", n, got.Action, got.Reason, tc.step.action, reason)
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
	short := fromClient(toAlice, "S").Payload(string(make([]byte, 200))).Bytes()
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
