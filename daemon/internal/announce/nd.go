// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"encoding/binary"
	"net/netip"

	"github.com/sluice-lb/sluice/internal/ether"
)

// Of RFC 8200 and RFC 4861.
const (
	etherTypeIPv6   = 0x86dd
	protoICMPv6     = 58
	ndHopLimit      = 255 // what a router has passed on is no neighbour's (RFC 4861 section 7.1.2)
	ndAdvertisement = 136
	ndOverride      = 1 << 29 // the flag: replace what you know
	ndTargetMAC     = 2       // the option

	naLen      = 24 + 8             // advertisement and one option
	naFrameLen = 14 + 40 + naLen    // with the headers of Ethernet and IPv6
	naICMP     = naFrameLen - naLen // where the advertisement begins
)

var (
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = ether.MAC{0x33, 0x33, 0, 0, 0, 1} // RFC 2464 section 7
)

// advertisement gives an unsolicited Neighbor Advertisement to all nodes (RFC 4861 section 7.2.6) for addr, which must be
// IPv6. It comes from addr itself, as the answers to solicitations do: a master need not have an address of its own.
func advertisement(mac ether.MAC, addr netip.Addr) []byte {
	src, dst := addr.As16(), allNodes.As16()
	b := make([]byte, 0, naFrameLen)
	b = append(b, allNodesMAC[:]...)
	b = append(b, mac[:]...)
	b = binary.BigEndian.AppendUint16(b, etherTypeIPv6)

	b = binary.BigEndian.AppendUint32(b, 6<<28) // version; no traffic class, no flow label
	b = binary.BigEndian.AppendUint16(b, naLen)
	b = append(b, protoICMPv6, ndHopLimit)
	b = append(b, src[:]...)
	b = append(b, dst[:]...)

	b = append(b, ndAdvertisement, 0, 0, 0) // type, code, and the checksum's place
	b = binary.BigEndian.AppendUint32(b, ndOverride)
	b = append(b, src[:]...)      // the target
	b = append(b, ndTargetMAC, 1) // its length is 1 unit of 8 octets
	b = append(b, mac[:]...)
	binary.BigEndian.PutUint16(b[naICMP+2:], checksum(src, dst, b[naICMP:]))
	return b
}

// checksum gives the checksum of an ICMPv6 message whose own is 0 and whose length is even (RFC 4443 section 2.3).
func checksum(src, dst [16]byte, message []byte) uint16 {
	sum := uint32(len(message)) + protoICMPv6 // the rest of the pseudo-header (RFC 8200 section 8.1)
	for _, part := range [][]byte{src[:], dst[:], message} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	return ^uint16(sum)
}

// solicitedNode gives the group that neighbours ask for an IPv6 address (RFC 4291 section 2.7.1).
func solicitedNode(addr netip.Addr) netip.Addr {
	low := addr.As16()
	group := [16]byte{0: 0xff, 1: 0x02, 11: 0x01, 12: 0xff}
	copy(group[13:], low[13:])
	return netip.AddrFrom16(group)
}
