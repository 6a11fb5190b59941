// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sluice-lb/sluice/bpf/bpftest"
	"github.com/sluice-lb/sluice/bpf/bpftest/model"
	"github.com/sluice-lb/sluice/internal/ether"
)

// A script is what a fuzzer writes: records of one size, so that it can splice them. Each is one frame in the words of
// the world, or a change of the world, or the head of a raw frame whose octets follow it.
//
// Most values of an octet mean what is usual; only few mean what is strange. So that lives of connections arise by
// chance, there are few addresses, ports and sequence numbers.
type record struct {
	Kind     byte // see next
	Hook     byte // turns the usual hook round, or lets the frame have arrived; from 128: IPv6
	Src, Dst byte // ends, by their position
	SrcMAC   byte // from 192: another than usual
	DstMAC   byte // from 128: another than usual
	Flags    byte // of TCP; below 128: those that are next in the life of the connection
	Numbers  byte // sequence and acknowledgment; below 128: those that fit the other side's
	Extra    byte // options, extension headers, fragments, payload
	Spoil    byte // from 208: how the finished frame is tagged or damaged
	At, With byte // where, and with what
}

const (
	recordSize = 12
	maxFrames  = 64
	kinds      = 32
	kindRaw    = kinds - 1
	kindChange = kinds - 2
	// ICMP: errors to a VIP, and from a pod; echo and what is neither.
	kindToVIP   = 22
	kindFromPod = 23
	kindEcho    = 24
	kindAsk     = 26 // ARP, or a solicitation
	kindEnter   = 29 // what egress has turned back
)

var (
	farClient = netip.MustParseAddrPort("203.0.113.9:40000")

	sources = []netip.AddrPort{
		client, fromPort(40001), farClient, bob.At(40000), alice.At(40000), alice.At(40001), addrPort(node, 40000),
		fromPort(0), alice.At(target), bob.At(target), carol.At(40000), carol.At(target),
	}
	requests = []netip.AddrPort{
		toMixed, toAlice, peerMixed, toBob, peerAlice, toRemi, zeroTarget, peerRemi, toNothing, unserved,
		addrPort(nobody, 80), alice.At(target), toFew, toKept, toNothing,
	}
	answers = []netip.AddrPort{
		alice.At(target), bob.At(target), remi.At(target), alice.At(40000), carol.At(target), toRemi,
	}
	stations = []ether.MAC{
		bpftest.Master, alice.MAC, bob.MAC, router, peer, remi.MAC, other, ether.Broadcast, {1, 0, 0x5e, 0, 0, 1},
	}
	segments = []string{"S", "S.", ".", "P.", ".", "F.", "R", "R."}
	hosts    = []netip.Addr{
		vip, peerVIP, node, alice.Addr, bob.Addr, remi.Addr, nobody, noAddr, carol.Addr,
	}
	protocols = []uint8{bpftest.ProtoTCP, bpftest.ProtoTCP, bpftest.ProtoUDP}
	others    = []uint8{bpftest.ProtoICMP, bpftest.ProtoSCTP, bpftest.ExtESP, 0, bpftest.ExtNone, bpftest.ProtoICMPv6}
	seqs      = []uint32{500, 500, 1<<32 - 1, 7}
	acks      = []uint32{501, 501, 0, 8, 777, 502, 501, 1} // of the first: all of it
)

func pick[T any](from []T, by byte) T { return from[int(by)%len(from)] }

// scriptReader turns a script into frames.
type scriptReader struct {
	*twin
	rest  []byte
	count int
	family
	frame model.Frame // no Bytes: the world was changed
	said  string      // how
	talks []talk      // the last ones to begin

	turned []byte // the last frame that egress turned back, and that has not yet entered
}

// talk is a connection as its two ends see it. Which port a pod gets that talks to itself, only the programs know.
type talk struct {
	proto       uint8
	client, vip netip.AddrPort // as the client sends
	peer, pod   netip.AddrPort // as the pod gets it
	answered    bool           // the pod has sent something
}

const maxTalks = 3

// saw tells the reader what became of the frame.
func (s *scriptReader) saw(action bpftest.Action, reason string, made []byte) {
	if action == bpftest.ToPods {
		s.turned = made
	}
	if reason != "NEW_FLOW" && reason != "REMOTE" {
		return
	}
	in, ok := bpftest.ReadTransport(bpftest.WithoutPriority(s.frame.Bytes))
	if !ok { // an error that was sent on
		return
	}
	out, _ := bpftest.ReadTransport(made)
	t := talk{in.Proto, in.Src, in.Dst, out.Src, out.Dst, false}
	if reason == "REMOTE" { // the pod's node has given its answers the VIP
		t.pod = t.vip
	}
	s.talks = slices.DeleteFunc(s.talks, func(o talk) bool {
		return o.proto == t.proto && o.client == t.client && o.vip == t.vip
	})
	s.talks = append(s.talks, t)
	if len(s.talks) > maxTalks {
		s.talks = s.talks[1:]
	}
}

// next reads a record; false at the end.
func (s *scriptReader) next() bool {
	for len(s.rest) >= recordSize && s.count < maxFrames {
		var r record
		if _, err := binary.Decode(s.rest, binary.BigEndian, &r); err != nil {
			panic(err) // impossible: the length was asked
		}
		s.rest = s.rest[recordSize:]
		s.count++
		s.frame = model.Frame{Dir: model.Ingress, Arrived: r.Hook>>3&7 == 7}
		s.family = ipv4
		if r.Hook >= 128 {
			s.family = ipv6
		}
		switch r.Kind % kinds {
		case kindChange:
			half := len(s.mixed) / 2 // IPv4's come first
			service, position := int(r.Src)%half, int(r.Dst)%len(mixedBackends)
			if s.family == ipv6 {
				service += half
			}
			c := change(r.Extra) % changes
			s.change(service, position, c)
			s.frame.Bytes, s.said = nil, fmt.Sprintf("mixed Service %d, backend %d: %s", service, position, c)
			return true
		case kindRaw:
			n := min(int(r.Src)<<8+int(r.Dst), len(s.rest))
			s.frame.Bytes, s.rest = bytes.Clone(s.rest[:n]), s.rest[n:]
		case kindEnter:
			if s.turned != nil {
				s.frame.Bytes, s.turned = s.turned, nil
				return true
			}
			fallthrough
		default:
			p := s.build(r)
			if r.Spoil >= 208 && r.Spoil < 224 {
				p = tag(p, r)
			}
			s.frame.Bytes = spoil(p.Bytes(), r)
		}
		// In l2 an ipvlan's frame for the MAC that it shares comes by ingress.
		if b := s.frame.Bytes; s.model.IPVlan && r.Hook&64 != 0 && len(b) > 12 && bytes.Equal(b[:6], b[6:12]) {
			s.frame.Dir = model.Ingress
		}
		if r.Hook&7 == 7 {
			s.frame.Dir = map[model.Direction]model.Direction{
				model.Ingress: model.Egress, model.Egress: model.Ingress,
			}[s.frame.Dir]
		}
		if runnable(s.frame.Bytes) {
			return true
		}
	}
	return false
}

// build makes the packet of a record and sets the usual hook.
func (s *scriptReader) build(r record) bpftest.Packet {
	src, dst := s.at(pick(sources, r.Src)), s.at(pick(requests, r.Dst))
	if r.With >= 248 {
		src = netip.AddrPortFrom(pick(strangers[s.family], r.With), src.Port())
	}
	switch k := r.Kind % kinds; {
	case k < 5:
		return s.route(layer4(bpftest.ProtoTCP, src, dst, r, "S"), src.Addr(), r)
	case k < 7:
		return s.route(layer4(bpftest.ProtoUDP, src, dst, r, ""), src.Addr(), r)
	case k < 15 && len(s.talks) > 0:
		return s.continued(r)
	case k < 22 && len(s.talks) > 0:
		return s.answered(r)
	case k == kindToVIP:
		return s.errorToVIP(r)
	case k == kindFromPod && len(s.talks) > 0:
		return s.errorFromPod(r)
	case k == kindEcho:
		return s.route(outside(bpftest.ICMP(src.Addr(), dst.Addr(), pick(messages, r.Flags)), r), src.Addr(), r)
	case k < 26:
		from, to := s.at(pick(answers, r.Src)), s.at(pick(sources, r.Dst))
		return s.back(layer4(pick(protocols, k), from, to, r, "S."), from.Addr(), to.Addr(), r)
	case k < 28 && s.family == ipv6:
		return s.nd(r)
	case k < 28:
		return s.arp(r)
	case k < 29 && r.Flags >= 128 && s.family == ipv6:
		kind := bpftest.ICMPv6Echo + r.Flags&15
		return s.route(bpftest.ICMPv6(src.Addr(), dst.Addr(), kind, 0).TTL(255).Payload(longEnough), src.Addr(), r)
	case k < 29:
		return s.route(bpftest.IP(src.Addr(), dst.Addr(), pick(others, r.Flags)).Payload("01234567"), src.Addr(), r)
	}
	return s.route(tag(layer4(bpftest.ProtoTCP, src, dst, r, "S"), r), src.Addr(), r)
}

// continued is one more packet of a client that has begun to talk.
func (s *scriptReader) continued(r record) bpftest.Packet {
	t := pick(s.talks, r.Src)
	next := "S"
	if t.answered {
		next = "."
	}
	return s.route(layer4(t.proto, t.client, t.vip, r, next), t.client.Addr(), r)
}

// answered is what a pod says that was talked to.
func (s *scriptReader) answered(r record) bpftest.Packet {
	t := &s.talks[int(r.Src)%len(s.talks)]
	next := "S."
	if t.answered {
		next = "P."
	}
	t.answered = true
	return s.back(layer4(t.proto, t.pod, t.peer, r, next), t.pod.Addr(), t.peer.Addr(), r)
}

// back gives an answer the MACs and the hook of the pod that sends it.
func (s *scriptReader) back(p bpftest.Packet, from, to netip.Addr, r record) bpftest.Packet {
	usual := macOf(to)
	if inIPv4(to) == vip || inIPv4(to) == peerVIP {
		usual = bpftest.Master
	}
	if inIPv4(from) == vip || inIPv4(from) == peerVIP { // from a pod elsewhere
		return p.From(station(remi.MAC, r.SrcMAC, 192)).To(station(usual, r.DstMAC, 192))
	}
	if s.model.Apart || usual != alice.MAC && usual != bob.MAC { // a sibling's passes ingress in bridge mode
		s.frame.Dir = model.Egress
	}
	return p.From(station(macOf(from), r.SrcMAC, 192)).To(station(usual, r.DstMAC, 192))
}

// route gives a request the MACs and the hook of who sends it.
func (s *scriptReader) route(p bpftest.Packet, from netip.Addr, r record) bpftest.Packet {
	mac := macOf(from)
	if mac != router {
		s.frame.Dir = model.Egress
	}
	return p.From(station(mac, r.SrcMAC, 192)).To(station(bpftest.Master, r.DstMAC, 160))
}

func (s *scriptReader) arp(r record) bpftest.Packet {
	asker, about := pick(hosts, r.Src), pick(hosts, r.Dst)
	mac := macOf(asker)
	if mac == router {
		mac = other
	} else {
		s.frame.Dir = model.Egress
	}
	op, usual := uint16(bpftest.ARPRequest), ether.Broadcast
	if r.Flags >= 192 {
		op, usual = bpftest.ARPReply, macOf(about)
	}
	p := bpftest.ARP(op, station(mac, r.Numbers, 240), asker, noMAC, about)
	if r.Extra >= 240 {
		p = p.ARPField(int(r.At)%28, r.With)
	}
	return p.From(station(mac, r.SrcMAC, 192)).To(station(usual, r.DstMAC, 160))
}

func macOf(a netip.Addr) ether.MAC {
	switch inIPv4(a) {
	case alice.Addr:
		return alice.MAC
	case bob.Addr:
		return bob.MAC
	case remi.Addr:
		return remi.MAC
	case node, carol.Addr:
		return bpftest.Master
	}
	return router
}

func station(usual ether.MAC, by, strange byte) ether.MAC {
	if by < strange {
		return usual
	}
	return pick(stations, by)
}

// layer4 is a datagram, or a segment whose usual flags are next.
func layer4(proto uint8, src, dst netip.AddrPort, r record, next string) bpftest.Packet {
	var p bpftest.Packet
	switch {
	case proto == bpftest.ProtoUDP:
		p = bpftest.UDP(src, dst)
	case r.Flags < 128:
		p = bpftest.TCP(src, dst, next)
	default:
		p = bpftest.TCP(src, dst, flagsOf(r.Flags))
	}
	if r.Numbers < 128 {
		p = p.Seq(seqs[0]).Ack(acks[0])
	} else {
		p = p.Seq(pick(seqs, r.Numbers)).Ack(pick(acks, r.Numbers>>2))
	}
	p = p.Payload("sixteen octets.."[:r.Extra&15])
	if src.Addr().Is6() && r.Extra>>4 > 6 {
		p = extended(p, r)
	}
	switch r.Extra >> 4 {
	case 10:
		return p.IPOptions(0x94, 4, 0, 0)
	case 11:
		return p.TCPOptions(2, 4, 5, 0xb4)
	case 12:
		return p.Fragment(0, true)
	case 13:
		return p.Fragment(uint16(r.At)*8, r.With&1 == 1)
	case 14:
		return p.NoChecksum()
	case 15:
		return p.DontFragment().ID(uint16(r.At)<<8 + uint16(r.With))
	}
	return p
}

func flagsOf(b byte) string {
	if b < 208 {
		return pick(segments, b)
	}
	var s string
	for i, c := range "FSRP." {
		if b>>i&1 == 1 {
			s += string(c)
		}
	}
	return s
}

// tag puts one or two tags into the frame; most are of a priority alone.
func tag(p bpftest.Packet, r record) bpftest.Packet {
	kinds := []uint16{bpftest.EtherVLAN, bpftest.EtherSVID}
	vid := uint16(0)
	if r.At&3 == 3 {
		vid = uint16(r.With)
	}
	if r.At&0x1c == 0x1c {
		p = p.Tag(pick(kinds, r.At>>5), uint16(r.With))
	}
	return p.Tag(pick(kinds, r.At>>6), uint16(r.With>>5)<<13|vid)
}

func spoil(frame []byte, r record) []byte {
	switch {
	case r.Spoil < 224:
		return frame
	case r.Spoil < 240:
		frame[int(r.At)%len(frame)] ^= r.With
		return frame
	case r.Spoil < 248:
		return frame[:int(r.At)%len(frame)]
	}
	return append(frame, make([]byte, r.At%64)...)
}
