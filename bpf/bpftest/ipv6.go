// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/sluice-lb/sluice/internal/ether"
)

// Numbers of IPv6's extension headers (IANA).
const (
	ExtHopByHop    = 0
	ExtRouting     = 43
	ExtFragment    = 44
	ExtESP         = 50
	ExtAH          = 51
	ExtNone        = 59
	ExtDestination = 60
)

// ipv6Fields is what IPv6 alone can say.
type ipv6Fields struct {
	class      uint8
	label      uint32
	extensions []extension
	length     int // payload length that the header claims, if lies
	lies       bool
}

// extension is an extension header but for its first octet, which names the next one.
type extension struct {
	number uint8
	rest   []byte
}

// Map gives an IP packet with other addresses, all of one family, which becomes the packet's. What IPv4 alone can say
// is lost in IPv6: options, identification, DF.
func (p Packet) Map(to func(netip.Addr) netip.Addr) Packet {
	if !p.ipSrc.IsValid() {
		return p
	}
	p.ipSrc, p.ipDst = to(p.ipSrc), to(p.ipDst)
	if p.icmp.target.IsValid() {
		p.icmp.target = to(p.icmp.target)
	}
	if p.etherType == EtherIPv4 && p.ipSrc.Is6() {
		p.etherType, p.version = EtherIPv6, 6
	}
	if p.icmp.quoted != nil {
		quoted := p.icmp.quoted.Map(to)
		p.icmp.quoted = &quoted
	}
	return p.asICMP()
}

// TrafficClass sets the traffic class of the IPv6 header.
func (p Packet) TrafficClass(c uint8) Packet { p.ipv6.class = c; return p }

// FlowLabel sets the flow label of the IPv6 header, 20 bits.
func (p Packet) FlowLabel(l uint32) Packet { p.ipv6.label = l; return p }

// PayloadLength makes the IPv6 header claim a length of what follows it.
func (p Packet) PayloadLength(n int) Packet { p.ipv6.length, p.ipv6.lies = n, true; return p }

// Extension puts an extension header behind those that are there. rest is the header without its first octet.
func (p Packet) Extension(number uint8, rest ...byte) Packet {
	p.ipv6.extensions = append(slices.Clip(p.ipv6.extensions), extension{number, rest})
	return p
}

// Options adds a header of hop-by-hop or destination options: as many octets, a multiple of 8, all of them padding.
func (p Packet) Options(number uint8, octets int) Packet {
	return p.Extension(number, append([]byte{uint8(octets/8 - 1)}, make([]byte, octets-2)...)...) // zero is Pad1
}

// Routing adds a routing header of type 0 with one address, and the segments that are left (RFC 8200 section 4.4).
func (p Packet) Routing(left uint8) Packet {
	return p.Extension(ExtRouting, append([]byte{2, 0, left, 0, 0, 0, 0}, make([]byte, 16)...)...)
}

// FragmentHeader adds a fragment header, and leaves the rest of the packet as it is. One with offset 0 and no more to
// come is atomic (RFC 6946).
func (p Packet) FragmentHeader(offset uint16, more bool) Packet {
	return p.Extension(ExtFragment, fragmentHeader(offset/8, more)...)
}

func fragmentHeader(units uint16, more bool) []byte {
	where := units << 3
	if more {
		where |= 1
	}
	return append(binary.BigEndian.AppendUint16([]byte{0}, where), 1, 2, 3, 4)
}

// AH adds an authentication header (RFC 4302) with an integrity check value of 12 octets.
func (p Packet) AH() Packet {
	return p.Extension(ExtAH, append([]byte{4}, make([]byte, 22)...)...)
}

func (p Packet) ipv6Bytes() []byte {
	chain := p.ipv6.extensions
	if p.fragment&0x3fff != 0 {
		chain = append(slices.Clip(chain), extension{ExtFragment, fragmentHeader(p.fragment&0x1fff, p.fragment&0x2000 != 0)})
	}
	next, body := p.proto, p.layer4()
	for _, e := range slices.Backward(chain) {
		body = slices.Concat([]byte{next}, e.rest, body)
		next = e.number
	}
	length := len(body)
	if p.ipv6.lies {
		length = p.ipv6.length
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(p.version)<<28|uint32(p.ipv6.class)<<20|p.ipv6.label&0xfffff)
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	b = append(b, next, p.ttl)
	b = append(b, p.ipSrc.AsSlice()...)
	b = append(b, p.ipDst.AsSlice()...)
	return append(b, body...)
}

// Types of ICMPv6 messages that the builder knows by name.
const (
	ICMPv6Echo              = 128
	ICMPv6RouterSolicit     = 133
	ICMPv6RouterAdvertise   = 134
	ICMPv6NeighborSolicit   = 135
	ICMPv6NeighborAdvertise = 136
	ICMPv6Redirect          = 137
)

// Flags of a Neighbor Advertisement (RFC 4861 section 4.4).
const (
	NDRouter    = 1 << 31
	NDSolicited = 1 << 30
	NDOverride  = 1 << 29
)

// Options of Neighbor Discovery that the builder knows by name.
const (
	NDSourceMAC = 1
	NDTargetMAC = 2
	NDNonce     = 14
)

// icmpFields is an ICMP message without its payload. A Neighbor Solicitation or Advertisement has a target.
type icmpFields struct {
	kind, code uint8
	flags      uint32
	target     netip.Addr
	options    []byte
	message    *Message // what ICMP was given
	rest       uint32
	quoted     *Packet
	quotedLen  int
}

func (f icmpFields) bytes() []byte {
	b := []byte{f.kind, f.code, 0, 0}
	if f.message != nil {
		return append(binary.BigEndian.AppendUint32(b, f.rest), f.quote()...)
	}
	if f.target.IsValid() {
		b = binary.BigEndian.AppendUint32(b, f.flags)
		b = append(b, f.target.AsSlice()...)
		b = append(b, f.options...)
	}
	return b
}

// ICMPv6 gives a message; its payload starts right after the checksum.
func ICMPv6(src, dst netip.Addr, kind, code uint8) Packet {
	p := IP(src, dst, ProtoICMPv6)
	p.icmp = icmpFields{kind: kind, code: code}
	return p
}

// NeighborSolicitation gives the question of a station for an address: to the solicited-node group, with the station's
// MAC as an option unless its address is unspecified (RFC 4861 section 7.2.2).
func NeighborSolicitation(mac ether.MAC, src, target netip.Addr) Packet {
	p := ICMPv6(src, SolicitedNode(target), ICMPv6NeighborSolicit, 0).TTL(255)
	p.icmp.target = target
	p.src, p.dst = mac, groupMAC(p.ipDst)
	if src.IsUnspecified() {
		return p
	}
	return p.NDOption(NDSourceMAC, mac[:]...)
}

// NeighborAdvertisement gives the answer of a station for an address to another station; dst is all nodes if it has no
// address yet.
func NeighborAdvertisement(mac ether.MAC, target, dst netip.Addr, flags uint32) Packet {
	p := ICMPv6(target, dst, ICMPv6NeighborAdvertise, 0).TTL(255)
	p.icmp.flags, p.icmp.target = flags, target
	p.src = mac
	if dst.IsMulticast() {
		p.dst = groupMAC(dst)
	}
	return p.NDOption(NDTargetMAC, mac[:]...)
}

// NDOption adds an option to a Neighbor Solicitation or Advertisement; with type and length it must fill units of 8
// octets.
func (p Packet) NDOption(kind uint8, body ...byte) Packet {
	return p.RawNDOptions(append([]byte{kind, uint8((len(body) + 2) / 8)}, body...)...)
}

// RawNDOptions adds octets to the options of a Neighbor Solicitation or Advertisement.
func (p Packet) RawNDOptions(b ...byte) Packet {
	p.icmp.options = append(slices.Clip(p.icmp.options), b...)
	return p
}

// NoNDOptions takes the options away again.
func (p Packet) NoNDOptions() Packet { p.icmp.options = nil; return p }

// ICMPCode sets the code of an ICMP message.
func (p Packet) ICMPCode(code uint8) Packet {
	p.icmp.code = code
	if m := p.icmp.message; m != nil {
		p.icmp.message = &Message{[2]uint8{m.v4[0], code}, [2]uint8{m.v6[0], code}}
	}
	return p
}

// SolicitedNode is the group of all nodes that an address may belong to (RFC 4291 section 2.7.1).
func SolicitedNode(a netip.Addr) netip.Addr {
	group, target := netip.MustParseAddr("ff02::1:ff00:0").As16(), a.As16()
	copy(group[13:], target[13:])
	return netip.AddrFrom16(group)
}

// groupMAC is where frames to a group go (RFC 2464 section 7).
func groupMAC(group netip.Addr) ether.MAC {
	octets := group.As16()
	return ether.MAC{0x33, 0x33, octets[12], octets[13], octets[14], octets[15]}
}
