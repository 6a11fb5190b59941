// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"

	"github.com/sluice-lb/sluice/bpf/bpftest"
	"github.com/sluice-lb/sluice/bpf/bpftest/model"
	"github.com/sluice-lb/sluice/internal/ether"
)

// strangers are addresses that no station has.
var strangers = map[family][]netip.Addr{
	ipv4: {
		noAddr, netip.MustParseAddr("0.1.2.3"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("224.0.0.1"),
		netip.MustParseAddr("240.0.0.1"), netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("223.255.255.1"),
	},
	ipv6: {
		allNodes, bpftest.SolicitedNode(ipv6.addr(vip)), mapped, netip.IPv6Unspecified(), netip.IPv6Loopback(),
		netip.MustParseAddr("::2"), netip.MustParseAddr("2001:db8::1"),
	},
}

// nd is a solicitation, or another message that looks like one.
func (s *scriptReader) nd(r record) bpftest.Packet {
	asker, about := pick(hosts, r.Src), s.addr(pick(hosts, r.Dst))
	mac := macOf(asker)
	if mac == router {
		mac = other
	} else {
		s.frame.Dir = model.Egress
	}
	p := bpftest.NeighborSolicitation(station(mac, r.Numbers, 240), s.addr(asker), about)
	usual := ether.MAC(p.Bytes())
	if r.Flags >= 224 {
		usual = macOf(about)
		p = bpftest.NeighborAdvertisement(mac, s.addr(asker), about, uint32(r.Flags)<<24)
	}
	switch r.Extra >> 4 {
	case 4:
		p = p.NoNDOptions()
	case 5, 6:
		p = p.NDOption(bpftest.NDNonce, 1, 2, 3, 4, 5, 6)
	case 7:
		p = p.NDOption(r.With, make([]byte, 8*int(r.At%64)+6)...)
	case 8:
		p = p.RawNDOptions(r.With, r.At, 0, 0, 0, 0, 0, 0)
	case 9:
		p = p.RawNDOptions(make([]byte, r.At%16)...)
	case 10:
		p = p.ICMPCode(r.With).TTL(r.At | 0xfe)
	case 11:
		p = p.PayloadLength(int(r.At))
	case 12:
		p, usual = p.Dst(netip.AddrPortFrom(about, 0)), bpftest.Master
	case 13:
		p = p.Dst(netip.AddrPortFrom(pick(strangers[ipv6], r.At), 0))
	case 14:
		p = p.Src(netip.AddrPortFrom(pick(strangers[ipv6], r.At), 0))
	case 15:
		p = extended(p, r)
	}
	return p.From(station(mac, r.SrcMAC, 192)).To(station(usual, r.DstMAC, 160))
}

// extended puts a chain of extension headers into an IPv6 packet: one for each two bits of At, once or thrice.
func extended(p bpftest.Packet, r record) bpftest.Packet {
	chain := uint32(r.At)
	if r.With&0x20 != 0 {
		chain |= chain<<8 | chain<<16
	}
	for ; chain > 0; chain >>= 2 {
		switch chain & 3 {
		case 0:
			p = p.Options(bpftest.ExtHopByHop, 8)
		case 1:
			p = p.Options(bpftest.ExtDestination, 8*(1+int(r.With>>2)))
		case 2:
			p = p.Routing(r.With >> 7 * r.With & 3)
		case 3:
			p = pick([]func(bpftest.Packet) bpftest.Packet{atomic, atomic, first, later, bpftest.Packet.AH}, r.With)(p)
		}
	}
	return p
}

func atomic(p bpftest.Packet) bpftest.Packet { return p.FragmentHeader(0, false) }
func first(p bpftest.Packet) bpftest.Packet  { return p.FragmentHeader(0, true) }
func later(p bpftest.Packet) bpftest.Packet  { return p.FragmentHeader(8, false) }
