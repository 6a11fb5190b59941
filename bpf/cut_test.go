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
	eachFamily(t, testCutFrames)
}

func testCutFrames(t *testing.T, f family) {
	const ethernet, tcp, udp = 14, 20, 8
	header := map[family]int{ipv4: 20, ipv6: 40}[f] // a test run takes no frame that ends before
	least := ethernet + header
	type want struct {
		enough int // octets; with less, nothing can be done
		step   step
		lack   string // the reason then
		before []step
		from   int // octets, where the first are not worth a look
	}
	syn := fromClient(toAlice, "S").TCPOptions(2, 4, 5, 0xb4)
	datagram := bpftest.UDP(client, toAlice).From(router).To(bpftest.Master).Payload("query")
	options := behindHeaders(syn.IPOptions(1, 1, 1, 0, 1, 1, 1, 0))
	behind := least + map[family]int{ipv4: 8, ipv6: headersLen}[f]
	lldp := bpftest.Frame(0x88cc, make([]byte, 60)).From(router).To(other)
	icmp := ingress(bpftest.ICMP(client.Addr(), vip, bpftest.SourceQuench).From(router).To(bpftest.Master),
		bpftest.Drop, "UNSUPPORTED_PROTOCOL")
	complaint := egress(complains(client.Addr(), bpftest.TooBig, atAlice(datagram)), bpftest.PassOn, "MISS")
	tests := map[string]want{
		"TCP":            {least + tcp, ingress(syn, bpftest.OK, "NEW_FLOW"), "MALFORMED", nil, 0},
		"TCP from a pod": {least + tcp, egress(syn, bpftest.ToPods, "NEW_FLOW"), "MALFORMED", nil, 0},
		"UDP":            {least + udp, ingress(datagram, bpftest.OK, "NEW_FLOW"), "MALFORMED", nil, 0},
		"behind headers": {behind + tcp, ingress(options, bpftest.OK, "NEW_FLOW"), "MALFORMED", nil, 0},
		"reply":          {least + tcp, egress(fromAlice("."), bpftest.OK, "UNNAT"), "MALFORMED", handshake(toAlice), 0},
		"ICMP":           {least + 8, icmp, "MALFORMED", nil, 0},
		"ICMP of a pod":  {least + 8, complaint, "MALFORMED", nil, 0},
		"LLDP":           {ethernet, ingress(lldp, bpftest.PassOn, "MISS"), "", nil, 0},
	}
	if f == ipv4 {
		tests["ARP"] = want{
			ethernet + 28, ingress(f.ask(neighbour, vip), bpftest.ToWire, "ARP_REPLY"), "MALFORMED", nil, 0,
		}
	} else {
		const advertisement = 86
		unsupported := ingress(behindHeaders(ip(bpftest.ProtoSCTP)), bpftest.Drop, "UNSUPPORTED_PROTOCOL")
		tests["no layer 4 that is served behind headers"] = want{behind, unsupported, "MALFORMED", nil, 0}
		// Without a type it is no message of Neighbor Discovery.
		tests["Neighbor Solicitation"] = want{
			advertisement, ingress(f.ask(neighbour, vip), bpftest.ToWire, "ND_REPLY"), "MALFORMED", nil, least + 1,
		}
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, f, bpftest.Config{})
			w.mustSteps(t, tc.before...)
			whole := w.bytes(tc.step.in)
			for n := max(tc.from, ethernet+1); n <= len(whole); n++ {
				run := bpftest.Run{Dir: tc.step.dir, Frame: whole[:n]}
				if n < ethernet+header {
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
	w := newWorld(t, ipv4, bpftest.Config{})
	short := fromClient(toAlice, "S").Payload(string(make([]byte, 200))).Bytes()
	short[14] = 4<<4 | 4 // a header of 16 octets
	for name, frame := range map[string][]byte{
		"IP version 6 in an IPv4 frame": fromClient(toAlice, "S").Version(6).Bytes(),
		"IP version 0":                  fromClient(toAlice, "S").Version(0).Bytes(),
		"IP header shorter than itself": short,
		"IP version 4 in an IPv6 frame": ipv6.packet(fromClient(toAlice, "S")).Version(4).Bytes(),
		"IP version 7 in an IPv6 frame": ipv6.packet(fromClient(toAlice, "S")).Version(7).Bytes(),
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
