// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"encoding/binary"
	"net/netip"

	"github.com/sluice-lb/sluice/internal/ether"
)

// Of RFC 826, and the EtherType that IEEE assigned to it.
const (
	etherTypeARP = 0x0806
	hwEthernet   = 1
	protoIPv4    = 0x0800
	opRequest    = 1
	opReply      = 2

	frameLen = 14 + 28 // Ethernet header, ARP for Ethernet and IPv4; drivers pad it to the minimum of Ethernet
)

// request gives an ARP Announcement (RFC 5227 section 3): a broadcast request that asks for the sender's own address.
func request(mac ether.MAC, addr netip.Addr) []byte {
	return frame(opRequest, mac, addr, ether.MAC{})
}

// reply gives a gratuitous ARP reply (RFC 5944 section 4.6). Some neighbours learn from this form only.
func reply(mac ether.MAC, addr netip.Addr) []byte {
	return frame(opReply, mac, addr, mac)
}

// frame gives a broadcast frame with an ARP packet whose sender and target are both addr, which must be IPv4.
func frame(op uint16, mac ether.MAC, addr netip.Addr, target ether.MAC) []byte {
	ip := addr.As4()
	b := make([]byte, 0, frameLen)
	b = append(b, ether.Broadcast[:]...)
	b = append(b, mac[:]...)
	b = binary.BigEndian.AppendUint16(b, etherTypeARP)
	b = binary.BigEndian.AppendUint16(b, hwEthernet)
	b = binary.BigEndian.AppendUint16(b, protoIPv4)
	b = append(b, uint8(len(mac)), uint8(len(ip)))
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(b, mac[:]...)
	b = append(b, ip[:]...)
	b = append(b, target[:]...)
	return append(b, ip[:]...)
}
