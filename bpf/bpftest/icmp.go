// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// Message is a kind of ICMP message: its type and code in both versions (RFC 792, RFC 4443).
type Message struct{ v4, v6 [2]uint8 }

// The messages that tests know by name.
var (
	EchoRequest      = Message{[2]uint8{8, 0}, [2]uint8{128, 0}}
	EchoReply        = Message{[2]uint8{0, 0}, [2]uint8{129, 0}}
	HostUnreachable  = Message{[2]uint8{3, 1}, [2]uint8{1, 3}}
	PortUnreachable  = Message{[2]uint8{3, 3}, [2]uint8{1, 4}}
	TooBig           = Message{[2]uint8{3, 4}, [2]uint8{2, 0}} // fragmentation needed; packet too big
	TimeExceeded     = Message{[2]uint8{11, 0}, [2]uint8{3, 0}}
	ParameterProblem = Message{[2]uint8{12, 0}, [2]uint8{4, 0}}
	SourceQuench     = Message{[2]uint8{4, 0}, [2]uint8{100, 0}} // obsolete (RFC 6633); private
	IPRedirect       = Message{[2]uint8{5, 1}, [2]uint8{127, 0}} // reserved in ICMPv6, where ND redirects
)

// Errors are those that tell of what became of a packet.
var Errors = map[string]Message{
	"host unreachable":  HostUnreachable,
	"port unreachable":  PortUnreachable,
	"too big":           TooBig,
	"time exceeded":     TimeExceeded,
	"parameter problem": ParameterProblem,
}

// icmpLen is the header of every message, with the word behind the checksum.
const icmpLen = 8

// ICMP gives a message in the family of its source. Its payload starts behind the eight octets of its header.
func ICMP(src, dst netip.Addr, m Message) Packet {
	p := IP(src, dst, ProtoICMP)
	p.icmp.message = &m
	return p.asICMP()
}

// asICMP gives a message the type, the code and the protocol of the packet's family.
func (p Packet) asICMP() Packet {
	if p.icmp.message == nil {
		return p
	}
	p.proto = ProtoICMP
	code := p.icmp.message.v4
	if p.ipSrc.Is6() {
		p.proto, code = ProtoICMPv6, p.icmp.message.v6
	}
	p.icmp.kind, p.icmp.code = code[0], code[1]
	return p
}

// Rest sets the word behind an ICMP message's checksum: identifier and sequence number, or the MTU.
func (p Packet) Rest(word uint32) Packet { p.icmp.rest = word; return p }

// Quoting lets an ICMP error quote a packet, in the family that the error has when it is built: so many octets, or all
// of them for 0. The quote comes before the payload.
func (p Packet) Quoting(q Packet, octets int) Packet {
	p.icmp.quoted, p.icmp.quotedLen = &q, octets
	return p
}

// quote gives the octets that the message quotes.
func (f icmpFields) quote() []byte {
	if f.quoted == nil {
		return nil
	}
	b := f.quoted.From(Master).To(Master).Bytes()[14:]
	if f.quotedLen > 0 && f.quotedLen < len(b) {
		b = b[:f.quotedLen]
	}
	return b
}

// isError tells whether the message quotes a packet.
func (h headers) isError() bool {
	if len(h.l4) < icmpLen || h.later {
		return false
	}
	switch kind := h.l4[0]; {
	case h.version == 4 && h.proto == ProtoICMP:
		return kind == 3 || kind == 11 || kind == 12
	case h.version == 6 && h.proto == ProtoICMPv6:
		return kind >= 1 && kind <= 4
	}
	return false
}

// quoted gives the packet that the message quotes as a frame of its own; nil if there is none.
func (h headers) quoted() []byte {
	if !h.isError() {
		return nil
	}
	kind := map[uint8]uint16{4: EtherIPv4, 6: EtherIPv6}[h.version]
	frame := binary.BigEndian.AppendUint16(make([]byte, 12), kind)
	return append(frame, h.l4[icmpLen:]...)
}

func writeICMP(b *strings.Builder, h headers) {
	fmt.Fprintf(b, "icmp type %d code %d checksum %#04x rest %#08x\n", h.l4[0], h.l4[1],
		binary.BigEndian.Uint16(h.l4[2:]), binary.BigEndian.Uint32(h.l4[4:]))
	quote := h.quoted()
	if quote == nil {
		if len(h.l4) > icmpLen {
			fmt.Fprintf(b, "payload %q\n", h.l4[icmpLen:])
		}
		return
	}
	for line := range strings.Lines(Text(quote)) {
		fmt.Fprintf(b, "quotes %s", line)
	}
}
