// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

// The kernel recomputes the sum of a CHECKSUM_COMPLETE packet after the run: what the programs wrote without telling
// skb->csum shows as EBADMSG. Ports and addresses change; all paths that rewrite are here.
func TestFullChecksumSurvivesEveryRewrite(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		datagram := bpftest.UDP(client, toAlice).From(router).To(bpftest.Master).Payload("odd")
		answer := bpftest.UDP(alice.At(target), client).From(alice.MAC).To(router).Payload("even")
		self := bpftest.TCP(alice.At(40000), toAlice, "S").From(alice.MAC).To(bpftest.Master)
		shown, in := fromAlice("P.").Src(toAlice), fromClient(toNothing, "S").Payload("")
		tests := map[string][]step{
			"ICMP error": append(handshake(toAlice),
				ingress(told(hop, bpftest.TooBig, shown), bpftest.OK, "ICMP_ERROR"),
				ingress(told(client.Addr(), bpftest.PortUnreachable, behindHeaders(shown)), bpftest.OK, "ICMP_ERROR")),
			"ICMP error about a datagram without a checksum": {
				ingress(datagram.NoChecksum(), bpftest.OK, "NEW_FLOW"),
				ingress(told(hop, bpftest.TooBig, answer.NoChecksum().Src(toAlice)), bpftest.OK, "ICMP_ERROR"),
				egress(complains(client.Addr(), bpftest.PortUnreachable, atAlice(datagram.NoChecksum())),
					bpftest.OK, "ICMP_ERROR"),
			},
			"ICMP error that is sent on": {ingress(told(hop, bpftest.TooBig, fromRemi()), bpftest.ToWire, "REMOTE")},
			"echo": {
				ingress(echo(client.Addr(), vip).To(bpftest.Master).From(router), bpftest.ToWire, "ECHO_REPLY"),
			},
			// The kernel forgets the sum, because the length changes; a test run looks at it all the same.
			"reset": {
				ingress(in, bpftest.ToWire, "REFUSED"), egress(in.Flags("."), bpftest.ToPods, "REFUSED"),
			},
			"TCP":             append(handshake(toAlice), delivered("P.", "LOCAL"), returned("P.")),
			"TCP, port stays": {ingress(fromClient(zeroTarget, "S"), bpftest.OK, "NEW_FLOW")},
			"TCP behind extension headers, or with options": {
				ingress(behindHeaders(fromClient(toAlice, "S")).IPOptions(1, 1, 1, 0), bpftest.OK, "NEW_FLOW"),
			},
			"TCP to a remote pod": {sentTo(remi, "S")},
			"UDP":                 {ingress(datagram, bpftest.OK, "NEW_FLOW"), egress(answer, bpftest.OK, "UNNAT")},
			"UDP without a checksum": {
				ingress(datagram.NoChecksum(), bpftest.OK, "NEW_FLOW"), egress(answer.NoChecksum(), bpftest.OK, "UNNAT"),
			},
			"UDP without one, port stays":  {ingress(datagram.Dst(zeroTarget).NoChecksum(), bpftest.OK, "NEW_FLOW")},
			"pod to itself":                {egress(self, bpftest.ToPods, "NEW_FLOW")},
			"dropped, and so not examined": {ingress(fromClient(unserved, "S"), bpftest.Drop, "NO_SERVICE")},
		}
		for name, steps := range tests {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, f, bpftest.Config{})
				for _, s := range steps {
					got, err := w.Try(bpftest.Run{Dir: s.dir, Frame: w.bytes(s.in), Flags: bpftest.ChecksumComplete})
					if errors.Is(err, unix.EBADMSG) {
						t.Fatalf("%s: the program left skb->csum wrong", s.reason)
					}
					if err != nil {
						t.Fatal(err)
					}
					if got.Action != s.action || got.Reason != s.reason {
						t.Errorf("verdict = %s (%s), want %s (%s)", got.Action, got.Reason, s.action, s.reason)
					}
					if err := bpftest.VerifyChecksums(got.Frame); err != nil {
						t.Errorf("%s: %v\n%s", s.reason, err, bpftest.Text(got.Frame))
					}
				}
			})
		}
	})
}

// The header's checksum is adjusted by hand, in the octet order of the machine; carries show only near the ends of its
// range.
func TestIPChecksumAtTheEndsOfItsRange(t *testing.T) {
	w := newWorld(t, ipv4, bpftest.Config{})
	const field, near = 14 + 10, 24
	edge := func(frame []byte) bool {
		sum := binary.LittleEndian.Uint16(frame[field:])
		return sum < near || sum > 0xffff-near
	}
	met := 0
	for id := range 1 << 16 {
		in := fromClient(toAlice, "S").ID(uint16(id))
		frame, want := in.Bytes(), atAlice(in).Bytes()
		if !edge(frame) && !edge(want) {
			continue
		}
		met++
		mustEqualFrames(t, "segment", want, w.Do(bpftest.Run{Dir: bpftest.Ingress, Frame: frame}).Frame)
	}
	if met < 2*near {
		t.Errorf("%d packets near the ends; the test proves little", met)
	}
}

// A sum that comes out as 0 must be sent as 0xffff (RFC 768), or the receiver takes it for none. Some payload of two
// octets leads to each sum, so all of them are tried.
func TestUDPChecksumThatBecomesZero(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		met := 0
		for n := range 1 << 16 {
			payload := string([]byte{byte(n >> 8), byte(n)})
			in := bpftest.UDP(client, toAlice).From(router).To(bpftest.Master).Payload(payload)
			want := w.bytes(atAlice(in))
			field := len(want) - len(payload) - 2
			if want[field] != 0xff || want[field+1] != 0xff {
				continue
			}
			met++
			got := w.Do(bpftest.Run{Dir: bpftest.Ingress, Frame: w.bytes(in)})
			mustEqualFrames(t, "datagram", want, got.Frame)
		}
		if met == 0 {
			t.Error("no payload gave the sum 0; the test proves nothing")
		}
	})
}
