// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/binary"
	"net/netip"

	"github.com/sluice-lb/sluice/internal/ether"
)

// Messages and options of Neighbor Discovery (RFC 4861 section 4).
const (
	firstOfND        = 133 // Router Solicitation
	solicitation     = 135
	advertisement    = 136
	lastOfND         = 137 // Redirect
	sourceLinkOption = 1
	targetLinkOption = 2
	solicitationLen  = 24 // without options
	optionUnit       = 8
)

// isND tells whether the packet is a message of Neighbor Discovery, with no extension header before it.
func (p *packet) isND() bool {
	if p.version != 6 || p.proto != protoICMPv6 || len(p.Bytes) <= p.l4 {
		return false
	}
	kind := p.Bytes[p.l4]
	return kind >= firstOfND && kind <= lastOfND
}

// nd answers a solicitation, to the same askers as arp does. All other messages are left alone.
func (n *Node) nd(p *packet) (Action, string) {
	message := p.Bytes[p.l4:]
	length := int(binary.BigEndian.Uint16(p.Bytes[ethernetLen+4:]))
	if message[0] != solicitation {
		return PassOn, "MISS"
	}
	if len(message) < solicitationLen || length < solicitationLen {
		return PassOn, "MALFORMED"
	}
	const fromNeighbour = 255 // no router has passed it on
	target := netip.AddrFrom16([16]byte(message[8:24]))
	mac, ok := n.answer(p, target)
	if !ok || message[1] != 0 || p.hops != fromNeighbour || p.from.IsMulticast() || p.l4+length > maxOffset {
		return PassOn, "MISS"
	}
	if length > len(message) || !p.validSolicitation(message[:length]) {
		return PassOn, "MALFORMED"
	}
	p.advertise(target, mac)
	return n.back(p), "ND_REPLY"
}

// validSolicitation makes the checks of RFC 4861 section 7.1.1 that are about the message itself.
func (p *packet) validSolicitation(message []byte) bool {
	if sum(p.pseudoHeader(len(message)), message) != 0 {
		return false
	}
	unspecified := p.from.IsUnspecified()
	for options := message[solicitationLen:]; len(options) > 0; {
		if len(options) < optionUnit || options[1] == 0 || len(options) < int(options[1])*optionUnit {
			return false
		}
		if unspecified && options[0] == sourceLinkOption {
			return false
		}
		options = options[int(options[1])*optionUnit:]
	}
	return !unspecified || isSolicitedNode(p.to)
}

// isSolicitedNode tells whether an address is of ff02::1:ff00:0/104 (RFC 4291 section 2.7.1).
func isSolicitedNode(a netip.Addr) bool {
	return netip.MustParsePrefix("ff02::1:ff00:0/104").Contains(a)
}

// advertise makes the solicitation the answer (RFC 4861 section 7.2.4): the version, traffic class and flow label stay.
func (p *packet) advertise(target netip.Addr, mac ether.MAC) {
	const solicited, override = 0x40, 0x20
	asker, to, flags := p.from, p.src, byte(solicited|override)
	if asker.IsUnspecified() { // whoever wants the address has none yet (RFC 4862 section 5.4)
		asker, to, flags = netip.MustParseAddr("ff02::1"), ether.MAC{0x33, 0x33, 0, 0, 0, 1}, override
	}
	p.from, p.to = target, asker
	message := append([]byte{advertisement, 0, 0, 0, flags, 0, 0, 0}, target.AsSlice()...)
	message = append(append(message, targetLinkOption, 1), mac[:]...)
	binary.BigEndian.PutUint16(message[2:], sum(p.pseudoHeader(len(message)), message))

	ip := p.out[:ethernetLen+ipv6Len]
	binary.BigEndian.PutUint16(ip[ethernetLen+4:], uint16(len(message)))
	p.out = append(ip, message...)
	copy(p.out[ethernetLen+8:], target.AsSlice())
	copy(p.out[ethernetLen+24:], asker.AsSlice())
	p.setMACs(to, mac)
}

// pseudoHeader is what a checksum covers besides the message (RFC 8200 section 8.1).
func (p *packet) pseudoHeader(length int) []byte {
	b := append(p.from.AsSlice(), p.to.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return append(b, 0, 0, 0, p.proto)
}

// sum is the Internet checksum (RFC 1071) of parts of even length, but for the last.
func sum(parts ...[]byte) uint16 {
	var change uint64
	for _, b := range parts {
		for i, octet := range b {
			change += uint64(octet) << (8 * (1 - i%2))
		}
	}
	field := []byte{0xff, 0xff}
	update(field, change)
	return binary.BigEndian.Uint16(field)
}
