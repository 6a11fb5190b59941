// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

var (
	errors4and6 = []bpftest.Message{
		bpftest.HostUnreachable, bpftest.PortUnreachable, bpftest.TooBig, bpftest.TimeExceeded,
		bpftest.ParameterProblem, bpftest.TooBig, bpftest.SourceQuench, bpftest.IPRedirect,
	}
	messages = []bpftest.Message{
		bpftest.EchoRequest, bpftest.EchoRequest, bpftest.EchoRequest, bpftest.EchoReply, bpftest.SourceQuench,
		bpftest.IPRedirect, bpftest.TimeExceeded,
	}
)

// errorToVIP is what a router says about a packet of the VIP, or a client who was not ready for it.
func (s *scriptReader) errorToVIP(r record) bpftest.Packet {
	t := talk{bpftest.ProtoTCP, s.at(client), s.at(toAlice), s.at(client), s.at(alice.At(target)), false}
	if len(s.talks) > 0 {
		t = pick(s.talks, r.Src)
	}
	from := t.client.Addr()
	if r.Flags&1 == 1 {
		from = s.addr(pick(hosts, r.Dst))
	}
	return s.route(s.about(layer4(t.proto, t.vip, t.client, r, "."), from, t.vip.Addr(), r), from, r)
}

// errorFromPod is what a pod says about a packet that it got.
func (s *scriptReader) errorFromPod(r record) bpftest.Packet {
	t := pick(s.talks, r.Src)
	from := t.pod.Addr()
	if r.Flags >= 240 {
		from = s.addr(pick(hosts, r.Dst))
	}
	return s.back(s.about(layer4(t.proto, t.peer, t.pod, r, "S"), from, t.peer.Addr(), r), from, t.peer.Addr(), r)
}

// about is an error that quotes a packet, or its beginning.
func (s *scriptReader) about(quoted bpftest.Packet, from, to netip.Addr, r record) bpftest.Packet {
	octets := 0
	if r.Numbers >= 96 {
		octets = map[family]int{ipv4: 20, ipv6: 40}[s.family] + int(r.Numbers)&31
	}
	if r.Numbers >= 248 {
		to = s.addr(pick(hosts, r.Numbers))
	}
	return outside(bpftest.ICMP(from, to, pick(errors4and6, r.With)).Rest(uint32(r.At)).Quoting(quoted, octets), r)
}

// outside gives a message the headers that its IP may have, and a payload.
func outside(p bpftest.Packet, r record) bpftest.Packet {
	p = p.Payload("sixteen octets.."[:r.Dst&15])
	switch r.Dst >> 4 {
	case 13:
		p = p.IPOptions(1, 1, 1, 0).Options(bpftest.ExtDestination, 8)
	case 14:
		p = extended(p, r)
	case 15:
		p = p.Fragment(uint16(r.At&3)*8, r.With&1 == 1)
	}
	return p
}
