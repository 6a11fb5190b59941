// SPDX-License-Identifier: Apache-2.0

// Package bpftest owns the words in which tests of the programs are written: packets, what the maps hold, and one run of a
// program. It computes checksums and hashes by itself, so that it can contradict the C. Only tests may import it.
package bpftest

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/sluice-lb/sluice/internal/ether"
)

// Protocol numbers (IANA) that the builder knows by name.
const (
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
	ProtoSCTP   = 132
)

// EtherTypes (IEEE) that the builder knows by name.
const (
	EtherIPv4 = 0x0800
	EtherARP  = 0x0806
	EtherVLAN = 0x8100 // C-tag
	EtherSVID = 0x88a8 // S-tag
	EtherIPv6 = 0x86dd
)

// Packet describes a frame. It is a value: every method returns a changed copy, so that a test derives the frame that it
// wants from the frame that it sends. Nothing is checked; impossible packets are what tests are for.
type Packet struct {
	dst, src  ether.MAC
	tags      []byte // IEEE 802.1Q, the outermost first
	etherType uint16
	arp       []byte // body of an ARP packet

	version    uint8
	ipOptions  []byte
	id         uint16
	fragment   uint16 // flags and offset as they stand in the header
	ttl        uint8
	proto      uint8
	ipSrc      netip.Addr
	ipDst      netip.Addr
	ipv6       ipv6Fields
	icmp       icmpFields
	sport      uint16
	dport      uint16
	flags      uint8
	seq, ack   uint32
	window     uint16
	tcpOptions []byte
	noChecksum bool
	payload    []byte

	truncate int // frame length; 0: whole
}

// IP gives a packet of any protocol, in the family of its source. Its payload starts right after the IP headers.
func IP(src, dst netip.Addr, proto uint8) Packet {
	p := Packet{etherType: EtherIPv4, version: 4, ttl: 64, proto: proto, ipSrc: src, ipDst: dst}
	if src.Is6() {
		p.etherType, p.version = EtherIPv6, 6
	}
	return p
}

// TCP gives a segment with the flags written as tcpdump does: S, F, R, P, and "." for ACK.
func TCP(src, dst netip.AddrPort, flags string) Packet {
	p := IP(src.Addr(), dst.Addr(), ProtoTCP)
	p.sport, p.dport = src.Port(), dst.Port()
	p.window = 64240
	return p.Flags(flags)
}

// UDP gives a datagram with a checksum.
func UDP(src, dst netip.AddrPort) Packet {
	p := IP(src.Addr(), dst.Addr(), ProtoUDP)
	p.sport, p.dport = src.Port(), dst.Port()
	return p
}

// Frame gives anything else: an EtherType and the bytes behind it.
func Frame(etherType uint16, payload []byte) Packet {
	return Packet{etherType: etherType, payload: payload}
}

// Operations of ARP (RFC 826).
const (
	ARPRequest = 1
	ARPReply   = 2
)

// ARP gives an ARP packet for IPv4 over Ethernet; the frame goes from the sender to the broadcast address.
func ARP(op uint16, senderMAC ether.MAC, sender netip.Addr, targetMAC ether.MAC, target netip.Addr) Packet {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(b, senderMAC[:]...)
	b = append(b, sender.AsSlice()...)
	b = append(b, targetMAC[:]...)
	b = append(b, target.AsSlice()...)
	return Packet{dst: ether.Broadcast, src: senderMAC, etherType: EtherARP, arp: b}
}

// From sets the frame's source.
func (p Packet) From(m ether.MAC) Packet { p.src = m; return p }

// To sets the frame's destination.
func (p Packet) To(m ether.MAC) Packet { p.dst = m; return p }

// Src sets the source address and port.
func (p Packet) Src(a netip.AddrPort) Packet { p.ipSrc, p.sport = a.Addr(), a.Port(); return p }

// Dst sets the destination address and port.
func (p Packet) Dst(a netip.AddrPort) Packet { p.ipDst, p.dport = a.Addr(), a.Port(); return p }

// Tag puts a tag into the bytes of the frame, before those that are there: its EtherType, and the tag control information
// (priority in the upper 3 bits, VLAN id in the lower 12).
func (p Packet) Tag(etherType, tci uint16) Packet {
	p.tags = append(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, etherType), tci), p.tags...)
	return p
}

// Version sets the version field of the IP header.
func (p Packet) Version(v uint8) Packet { p.version = v; return p }

// ID sets the identification of the IPv4 header.
func (p Packet) ID(id uint16) Packet { p.id = id; return p }

// TTL sets the time to live, or the hop limit.
func (p Packet) TTL(ttl uint8) Packet { p.ttl = ttl; return p }

// IPOptions sets the options of the IPv4 header; the length must be a multiple of 4.
func (p Packet) IPOptions(b ...byte) Packet { p.ipOptions = b; return p }

// DontFragment sets the DF bit of the IPv4 header.
func (p Packet) DontFragment() Packet { p.fragment |= 0x4000; return p }

// Fragment makes the packet a fragment at an offset in octets, a multiple of 8. Only the one at 0 has a layer-4 header.
// In IPv6 the fragment header comes last of all extension headers.
func (p Packet) Fragment(offset uint16, more bool) Packet {
	p.fragment = offset / 8
	if more {
		p.fragment |= 0x2000
	}
	return p
}

// Flags sets the TCP flags, written as tcpdump does.
func (p Packet) Flags(s string) Packet {
	p.flags = 0
	for _, c := range s {
		switch c {
		case 'F':
			p.flags |= 0x01
		case 'S':
			p.flags |= 0x02
		case 'R':
			p.flags |= 0x04
		case 'P':
			p.flags |= 0x08
		case '.':
			p.flags |= 0x10
		default:
			panic(fmt.Sprintf("TCP flag %q: use S, F, R, P or .", c))
		}
	}
	return p
}

// Seq sets the TCP sequence number.
func (p Packet) Seq(n uint32) Packet { p.seq = n; return p }

// Ack sets the TCP acknowledgment number, and leaves the flags alone.
func (p Packet) Ack(n uint32) Packet { p.ack = n; return p }

// Window sets the TCP window, which is 64,240 otherwise.
func (p Packet) Window(n uint16) Packet { p.window = n; return p }

// TCPOptions sets the options of the TCP header; the length must be a multiple of 4.
func (p Packet) TCPOptions(b ...byte) Packet { p.tcpOptions = b; return p }

// NoChecksum leaves the UDP checksum 0, which means that there is none (RFC 768).
func (p Packet) NoChecksum() Packet { p.noChecksum = true; return p }

// Payload sets what follows the last header.
func (p Packet) Payload(s string) Packet { p.payload = []byte(s); return p }

// ARPField overwrites one octet of the ARP packet.
func (p Packet) ARPField(offset int, value byte) Packet {
	p.arp = append([]byte(nil), p.arp...)
	p.arp[offset] = value
	return p
}

// Truncate cuts the frame after n octets, headers and all. Lengths and checksums still speak of the whole.
func (p Packet) Truncate(n int) Packet { p.truncate = n; return p }

// Bytes builds the frame.
func (p Packet) Bytes() []byte {
	b := append([]byte(nil), p.dst[:]...)
	b = append(b, p.src[:]...)
	b = append(b, p.tags...)
	b = binary.BigEndian.AppendUint16(b, p.etherType)
	switch {
	case p.arp != nil:
		b = append(b, p.arp...)
	case p.etherType == EtherIPv4 && p.ipSrc.IsValid():
		b = append(b, p.ipv4Bytes()...)
	case p.etherType == EtherIPv6 && p.ipSrc.IsValid():
		b = append(b, p.ipv6Bytes()...)
	default:
		b = append(b, p.payload...)
	}
	if p.truncate > 0 && p.truncate < len(b) {
		b = b[:p.truncate]
	}
	return b
}

// WithoutPriority gives a frame without its outermost tag, if that has VLAN id 0: so it leaves the programs, which move
// such a tag to where the kernel keeps it.
func WithoutPriority(frame []byte) []byte {
	if len(frame) < 18 {
		return frame
	}
	kind, tci := binary.BigEndian.Uint16(frame[12:]), binary.BigEndian.Uint16(frame[14:])
	if kind != EtherVLAN && kind != EtherSVID || tci&0xfff != 0 {
		return frame
	}
	return append(append([]byte(nil), frame[:12]...), frame[16:]...)
}

func (p Packet) ipv4Bytes() []byte {
	l4 := p.layer4()
	header := 20 + len(p.ipOptions)
	b := []byte{p.version<<4 | uint8(header/4), 0}
	b = binary.BigEndian.AppendUint16(b, uint16(header+len(l4)))
	b = binary.BigEndian.AppendUint16(b, p.id)
	b = binary.BigEndian.AppendUint16(b, p.fragment)
	b = append(b, p.ttl, p.proto, 0, 0)
	b = append(b, p.ipSrc.AsSlice()...)
	b = append(b, p.ipDst.AsSlice()...)
	b = append(b, p.ipOptions...)
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, l4...)
}

func (p Packet) layer4() []byte {
	var b []byte
	var field int // where the checksum stands
	switch {
	case p.fragment&0x1fff != 0:
		return p.payload
	case p.proto == ProtoTCP:
		b = binary.BigEndian.AppendUint16(b, p.sport)
		b = binary.BigEndian.AppendUint16(b, p.dport)
		b = binary.BigEndian.AppendUint32(b, p.seq)
		b = binary.BigEndian.AppendUint32(b, p.ack)
		b = append(b, uint8(20+len(p.tcpOptions))/4<<4, p.flags)
		b = append(binary.BigEndian.AppendUint16(b, p.window), 0, 0, 0, 0)
		b = append(b, p.tcpOptions...)
		field = 16
	case p.proto == ProtoUDP:
		b = binary.BigEndian.AppendUint16(b, p.sport)
		b = binary.BigEndian.AppendUint16(b, p.dport)
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(p.payload)))
		b = append(b, 0, 0)
		field = 6
	case p.proto == ProtoICMPv6, p.icmp.message != nil:
		b = p.icmp.bytes()
		field = 2
	default:
		return p.payload
	}
	b = append(b, p.payload...)
	if p.noChecksum {
		return b
	}
	sum := checksum(pseudoHeader(p.ipSrc, p.ipDst, p.proto, len(b)), b)
	if p.proto == ProtoICMP {
		sum = checksum(b)
	}
	if sum == 0 && p.proto == ProtoUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[field:], sum)
	return b
}
