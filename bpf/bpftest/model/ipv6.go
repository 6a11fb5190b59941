// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/binary"
	"net/netip"
)

// Extension headers of IPv6 (IANA) that a host reads and then goes on behind (RFC 8200 section 4).
const (
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extDestination = 60
)

// How far the chain of extension headers is walked: headers, and octets from the start of the frame to layer 4.
const (
	maxExtensions = 8
	maxOffset     = 511
)

// parseIPv6 reads the fixed header (RFC 8200 section 3); false if it is cut off or contradicts itself. Whoever the
// packet concerns must walk before he looks further.
func (p *packet) parseIPv6() bool {
	if len(p.Bytes) < ethernetLen+ipv6Len {
		return false
	}
	ip := p.Bytes[ethernetLen:]
	if ip[0]>>4 != 6 {
		return false
	}
	p.version = 6
	p.proto, p.hops = ip[6], ip[7]
	p.from, p.to = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	p.l4 = ethernetLen + ipv6Len
	return true
}

// onNoWire tells whether an IPv6 packet has an end that no packet can have: IPv4-mapped addresses stand for IPv4 nodes
// inside of hosts alone (RFC 6890 table 20: neither source nor destination).
func (p *packet) onNoWire() bool { return p.from.Is4In6() || p.to.Is4In6() }

// walk goes along the extension headers to layer 4, or to the header that it must not pass, whose number is the
// protocol then. False if one is cut off. In IPv4 there is nowhere to go.
func (p *packet) walk() bool {
	if p.version != 6 {
		return true
	}
	for count := 0; count < maxExtensions && !p.later; count++ {
		switch p.proto {
		case extHopByHop:
			if count > 0 { // not directly behind the fixed header (RFC 8200 section 4.1)
				return true
			}
		case extRouting, extFragment, extDestination:
		default: // layer 4; or ESP and AH, whose checks cover what would change
			return true
		}
		const least = 8
		if len(p.Bytes) < p.l4+least {
			return false
		}
		header := p.Bytes[p.l4:]
		length := 8 * (int(header[1]) + 1)
		switch p.proto {
		case extFragment:
			const offset, more = 0xfff8, 1
			where := binary.BigEndian.Uint16(header[2:])
			length = least
			// Neither: atomic, and no fragment (RFC 6946).
			p.fragment = p.fragment || where&(offset|more) != 0
			p.later = where&offset != 0
		case extRouting:
			if segmentsLeft := header[3]; segmentsLeft > 0 { // this is not where it ends
				return true
			}
		}
		if len(header) < length {
			return false
		}
		if p.before+p.l4+length > maxOffset {
			return true
		}
		p.proto, p.l4 = header[0], p.l4+length
	}
	return true
}
