// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Answer is a kind of packets that a node makes up by itself, and limits.
type Answer string

// The kinds.
const (
	Echo        Answer = "echo"
	Reset       Answer = "reset"
	Unreachable Answer = "unreachable"
)

// hopLimit is what answers begin with (RFC 1700: the recommended default).
const hopLimit = 64

// maxQuote is how much of a packet an error of ours quotes, by the version of IP: as much as every link carries whole with the
// error's own headers (RFC 1812 section 4.3.2.3, RFC 4443 section 3.1).
var maxQuote = map[uint8]int{4: 576 - ipv4Len - icmpLen, 6: 1280 - ipv6Len - icmpLen}

// answerable tells whether a packet's sender may be told anything: an address that is no single station's would make
// the answer a flood (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e, RFC 9293 section 3.9.2.3).
func (p *packet) answerable() bool {
	const group = 1
	if p.dst[0]&group != 0 || p.src[0]&group != 0 {
		return false
	}
	this, classE := netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("240.0.0.0/4")
	return !p.from.IsUnspecified() && !p.from.IsLoopback() && !p.from.IsMulticast() &&
		!this.Contains(p.from) && !classE.Contains(p.from)
}

// refuse tells a client that nobody serves it.
func (n *Node) refuse(p *packet) (Action, string) {
	kind := Unreachable
	if p.proto == protoTCP {
		kind = Reset
	}
	switch {
	case n.Silent, !p.answerable(), kind == Reset && p.flags&rst != 0:
		return Drop, "NO_BACKEND"
	case n.Exhausted[kind]:
		return Drop, "ANSWER_LIMIT"
	case kind == Reset:
		p.answerWith(protoTCP, p.reset())
	case p.version == 4:
		p.answerWith(protoICMP, p.unreachable(3, 3)) // RFC 792
	default:
		p.answerWith(protoICMPv6, p.unreachable(1, 4)) // RFC 4443 section 3.1
	}
	p.setMACs(p.src, n.Master)
	return n.back(p), "REFUSED"
}

// reset answers a segment in the state CLOSED (RFC 9293 section 3.10.7.1). Its checksum is still to be filled in.
func (p *packet) reset() []byte {
	seq, number, flags := uint32(0), p.seq+p.segmentLength(), byte(rst|ack)
	if p.flags&ack != 0 {
		seq, number, flags = p.ackno, 0, rst
	}
	b := binary.BigEndian.AppendUint16(nil, p.dport)
	b = binary.BigEndian.AppendUint16(b, p.sport)
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, number)
	return append(b, tcpLen/4<<4, flags, 0, 0, 0, 0, 0, 0)
}

// segmentLength is SEG.LEN: the octets of data by what the headers say, and SYN and FIN.
func (p *packet) segmentLength() uint32 {
	ip := p.Bytes[ethernetLen:]
	end := ethernetLen + int(binary.BigEndian.Uint16(ip[2:]))
	if p.version == 6 {
		end = ethernetLen + ipv6Len + int(binary.BigEndian.Uint16(ip[4:]))
	}
	length := max(0, end-p.l4-int(p.Bytes[p.l4+12]>>4)*4)
	for _, flag := range []byte{syn, fin} {
		if p.flags&flag != 0 {
			length++
		}
	}
	return uint32(length)
}

// unreachable quotes the packet's beginning. Its checksum is still to be filled in.
func (p *packet) unreachable(kind, code byte) []byte {
	quote := p.Bytes[ethernetLen:]
	return append([]byte{kind, code, 0, 0, 0, 0, 0, 0}, quote[:min(len(quote), maxQuote[p.version])]...)
}

// answerWith makes the packet one of the other direction, with another header and what is behind it.
func (p *packet) answerWith(proto uint8, body []byte) {
	field := map[uint8]int{protoTCP: 16, protoICMP: 2, protoICMPv6: 2}[proto]
	other := &packet{version: p.version, from: p.to, to: p.from, proto: proto}
	covered := [][]byte{body}
	if proto != protoICMP { // which has no pseudo header
		covered = slices.Insert(covered, 0, other.pseudoHeader(len(body)))
	}
	binary.BigEndian.PutUint16(body[field:], sum(covered...))

	var ip []byte
	if p.version == 4 {
		ip = binary.BigEndian.AppendUint16([]byte{4<<4 | ipv4Len/4, 0}, uint16(ipv4Len+len(body)))
		const dontFragment = 0x40 // such packets need no identification (RFC 6864 section 4.1)
		ip = append(ip, 0, 0, dontFragment, 0, hopLimit, proto, 0, 0)
	} else {
		ip = binary.BigEndian.AppendUint16([]byte{6 << 4, 0, 0, 0}, uint16(len(body)))
		ip = append(ip, proto, hopLimit)
	}
	ip = append(append(ip, p.to.AsSlice()...), p.from.AsSlice()...)
	if p.version == 4 {
		binary.BigEndian.PutUint16(ip[10:], sum(ip))
	}
	p.out = slices.Concat(p.out[:ethernetLen], ip, body)
}
