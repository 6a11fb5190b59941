// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/sluice-lb/sluice/internal/ether"
)

// EtherTypes and protocol numbers (IANA).
const (
	etherIPv4   = 0x0800
	etherARP    = 0x0806
	etherCTag   = 0x8100 // IEEE 802.1Q clause 9
	etherIPv6   = 0x86dd
	etherSTag   = 0x88a8
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

// Lengths of headers without options.
const (
	ethernetLen = 14
	ipv4Len     = 20
	ipv6Len     = 40
	tcpLen      = 20
	udpLen      = 8
	icmpLen     = 8 // RFC 792: with the word behind the checksum, whatever it means
)

// TCP flags (RFC 9293 section 3.1).
const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
)

// packet is a frame with what was read of it.
type packet struct {
	Frame
	out      []byte // the copy that is changed
	dst, src ether.MAC
	before   int // octets that lie before this packet in the frame: more than none if an ICMP error quotes it

	version  uint8 // of IP; 0: it is none
	hops     uint8 // hop limit of IPv6
	l4       int   // offset of the layer-4 header; IPv6: of the header that proto names, see walk
	proto    uint8
	from, to netip.Addr
	fragment bool // any fragment, the first too
	later    bool // a fragment that has no layer-4 header

	sport, dport uint16
	flags        uint8 // TCP's
	seq, ackno   uint32
}

func (p *packet) etherType() uint16 { return binary.BigEndian.Uint16(p.Bytes[12:]) }

func isTag(etherType uint16) bool { return etherType == etherCTag || etherType == etherSTag }

// withoutPriority takes a priority tag out of a frame: one with VLAN id 0, which puts the frame into no VLAN (IEEE 802.1Q
// clause 6.9). Of two tags it takes the outer.
func withoutPriority(frame []byte) []byte {
	const at, length, vlanID = 12, 4, 0x0fff
	if len(frame) < ethernetLen+length || !isTag(binary.BigEndian.Uint16(frame[at:])) ||
		binary.BigEndian.Uint16(frame[at+2:])&vlanID != 0 {
		return frame
	}
	return append(append([]byte(nil), frame[:at]...), frame[at+length:]...)
}

// parseIPv4 reads the header without its options (RFC 791); false if it is cut off or contradicts itself.
func (p *packet) parseIPv4() bool {
	if len(p.Bytes) < ethernetLen+ipv4Len {
		return false
	}
	ip := p.Bytes[ethernetLen:]
	length := int(ip[0]&0xf) * 4
	if ip[0]>>4 != 4 || length < ipv4Len {
		return false
	}
	p.version = 4
	const moreFragments, offset = 0x2000, 0x1fff
	where := binary.BigEndian.Uint16(ip[6:])
	p.fragment, p.later = where&(moreFragments|offset) != 0, where&offset != 0
	p.l4 = ethernetLen + length
	p.proto = ip[9]
	p.from, p.to = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	return true
}

// parsePorts reads the header of TCP or UDP without its options; false if it is cut off, or the IP header before it.
func (p *packet) parsePorts() bool {
	least := udpLen
	if p.proto == protoTCP {
		least = tcpLen
	}
	if len(p.Bytes) < p.l4+least {
		return false
	}
	b := p.Bytes[p.l4:]
	p.sport, p.dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	if p.proto == protoTCP {
		p.seq, p.ackno, p.flags = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:]), b[13]
	}
	return true
}

// tuple is the packet's own, as it arrives.
func (p *packet) tuple() Tuple {
	return Tuple{p.proto, netip.AddrPortFrom(p.from, p.sport), netip.AddrPortFrom(p.to, p.dport)}
}

// opens tells whether the packet asks for a new connection.
func (p *packet) opens() bool { return p.proto == protoTCP && p.flags&syn != 0 }

func (p *packet) setMACs(dst, src ether.MAC) {
	copy(p.out[0:6], dst[:])
	copy(p.out[6:12], src[:])
}

// rewrite gives the packet other ends. Checksums are brought up to date by what changed (RFC 1624), so that one that
// was wrong stays wrong, and the receiver sees it. One that a quote leaves out is no matter.
func (p *packet) rewrite(src, dst netip.AddrPort) {
	change := p.readdress(src.Addr(), dst.Addr())
	ports := p.out[p.l4 : p.l4+4]
	before := bytes.Clone(ports)
	binary.BigEndian.PutUint16(ports, src.Port())
	binary.BigEndian.PutUint16(ports[2:], dst.Port())
	change += sumChange(before, ports)

	at := p.l4 + 16
	if p.proto == protoUDP {
		at = p.l4 + 6
	}
	if len(p.out) < at+2 {
		return
	}
	sum := p.out[at : at+2]
	if p.proto == protoUDP && binary.BigEndian.Uint16(sum) == 0 {
		return // there is none (RFC 768; RFC 6935)
	}
	update(sum, change)
	if p.proto == protoUDP && binary.BigEndian.Uint16(sum) == 0 {
		binary.BigEndian.PutUint16(sum, 0xffff)
	}
}

// readdress gives the IP header other addresses, and tells what that adds to a sum over a pseudo header.
func (p *packet) readdress(src, dst netip.Addr) uint64 {
	at := p.addresses()
	before := bytes.Clone(p.out[at[0]:at[1]])
	addresses := p.out[at[0]:at[1]]
	copy(addresses[copy(addresses, src.AsSlice()):], dst.AsSlice())
	change := sumChange(before, addresses)
	if p.version == 4 { // IPv6's header has no checksum
		update(p.out[ethernetLen+10:], change)
	}
	return change
}

// addresses tells where both addresses lie, one behind the other.
func (p *packet) addresses() [2]int {
	if p.version == 4 {
		return [2]int{ethernetLen + 12, ethernetLen + 20}
	}
	return [2]int{ethernetLen + 8, ethernetLen + 40}
}

// sumChange is ~m + m' of RFC 1624, not folded, of all words that differ. An odd octet at the end is not looked at.
func sumChange(before, after []byte) uint64 {
	var sum uint64
	for i := 0; i+1 < len(before); i += 2 {
		was, is := binary.BigEndian.Uint16(before[i:]), binary.BigEndian.Uint16(after[i:])
		if was != is {
			sum += uint64(^was) + uint64(is)
		}
	}
	return sum
}

// update is equation 3 of RFC 1624: HC' = ~(~HC + ~m + m').
func update(field []byte, change uint64) {
	sum := uint64(^binary.BigEndian.Uint16(field)) + change
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(field, ^uint16(sum))
}
