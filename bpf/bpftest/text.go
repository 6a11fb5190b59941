// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/sluice-lb/sluice/internal/ether"
)

// Text writes a frame in lines that a person can compare: one a header, and the rest in quotes.
func Text(frame []byte) string {
	var b strings.Builder
	if len(frame) < 14 {
		fmt.Fprintf(&b, "cut off after %d octets: %x\n", len(frame), frame)
		return b.String()
	}
	fmt.Fprintf(&b, "ether %s > %s", ether.MAC(frame[6:12]), ether.MAC(frame[:6]))
	rest, kind := frame[14:], binary.BigEndian.Uint16(frame[12:])
	for (kind == EtherVLAN || kind == EtherSVID) && len(rest) >= 4 {
		tci := binary.BigEndian.Uint16(rest)
		fmt.Fprintf(&b, " tag %#04x priority %d vlan %d", kind, tci>>13, tci&0xfff)
		rest, kind = rest[4:], binary.BigEndian.Uint16(rest[2:])
	}
	fmt.Fprintf(&b, " type %#04x length %d\n", kind, len(frame))
	if kind == EtherARP && len(rest) >= 28 {
		writeARP(&b, rest)
		return b.String()
	}
	h, ok := parse(frame)
	if !ok {
		fmt.Fprintf(&b, "rest %q\n", rest)
		return b.String()
	}
	if h.version == 6 {
		writeIPv6(&b, h)
	} else {
		writeIPv4(&b, h)
	}
	writeLayer4(&b, h)
	if err := VerifyChecksums(frame); err != nil {
		fmt.Fprintf(&b, "bad: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if pad := rest[h.length():]; len(pad) > 0 {
		fmt.Fprintf(&b, "padding %q\n", pad)
	}
	return b.String()
}

func writeARP(b *strings.Builder, arp []byte) {
	fmt.Fprintf(b, "arp %x op %d sender %s %s target %s %s\n", arp[:6], binary.BigEndian.Uint16(arp[6:]),
		ether.MAC(arp[8:14]), netip.AddrFrom4([4]byte(arp[14:18])),
		ether.MAC(arp[18:24]), netip.AddrFrom4([4]byte(arp[24:28])))
	if len(arp) > 28 {
		fmt.Fprintf(b, "padding %q\n", arp[28:])
	}
}

func writeIPv4(b *strings.Builder, h headers) {
	fmt.Fprintf(b, "ipv4 %s > %s proto %d ttl %d tos %d id %d", h.src, h.dst, h.proto, h.ip[8], h.ip[1],
		binary.BigEndian.Uint16(h.ip[4:]))
	if h.fragment != 0 {
		fmt.Fprintf(b, " df %t mf %t offset %d", h.fragment&0x4000 != 0, h.fragment&0x2000 != 0, h.fragment&0x1fff*8)
	}
	if len(h.ip) > 20 {
		fmt.Fprintf(b, " options %x", h.ip[20:])
	}
	fmt.Fprintf(b, " checksum %#04x\n", binary.BigEndian.Uint16(h.ip[10:]))
}

func writeIPv6(b *strings.Builder, h headers) {
	first := binary.BigEndian.Uint32(h.ip)
	fmt.Fprintf(b, "ipv6 %s > %s next %d hop limit %d class %d label %#05x length %d\n", h.src, h.dst, h.ip[6], h.ip[7],
		first>>20&0xff, first&0xfffff, binary.BigEndian.Uint16(h.ip[4:]))
	for _, e := range h.chain {
		fmt.Fprintf(b, "extension %d next %d %x\n", e.number, e.rest[0], e.rest[1:])
	}
}

func writeLayer4(b *strings.Builder, h headers) {
	l4 := h.l4
	switch {
	case h.later:
	case h.proto == ProtoTCP && len(l4) >= 20:
		header := min(max(int(l4[12]>>4)*4, 20), len(l4))
		fmt.Fprintf(b, "tcp %d > %d [%s] seq %d ack %d win %d options %x checksum %#04x\n",
			binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:]), flagText(l4[13]),
			binary.BigEndian.Uint32(l4[4:]), binary.BigEndian.Uint32(l4[8:]),
			binary.BigEndian.Uint16(l4[14:]), l4[20:header], binary.BigEndian.Uint16(l4[16:]))
		l4 = l4[header:]
	case h.proto == ProtoUDP && len(l4) >= 8:
		fmt.Fprintf(b, "udp %d > %d length %d checksum %#04x\n", binary.BigEndian.Uint16(l4),
			binary.BigEndian.Uint16(l4[2:]), binary.BigEndian.Uint16(l4[4:]), binary.BigEndian.Uint16(l4[6:]))
		l4 = l4[8:]
	case len(l4) >= icmpLen && (h.isError() || h.proto == ProtoICMP && h.version == 4):
		writeICMP(b, h)
		return
	case h.proto == ProtoICMPv6 && len(l4) >= 4:
		fmt.Fprintf(b, "icmpv6 type %d code %d checksum %#04x\n", l4[0], l4[1], binary.BigEndian.Uint16(l4[2:]))
		l4 = l4[4:]
		if kind := h.l4[0]; (kind == ICMPv6NeighborSolicit || kind == ICMPv6NeighborAdvertise) && len(l4) >= 20 {
			fmt.Fprintf(b, "nd flags %#08x target %s options %x\n", binary.BigEndian.Uint32(l4),
				netip.AddrFrom16([16]byte(l4[4:20])), l4[20:])
			l4 = nil
		}
	}
	if len(l4) > 0 {
		fmt.Fprintf(b, "payload %q\n", l4)
	}
}

func flagText(flags uint8) string {
	var b strings.Builder
	for i, c := range "FSRP." {
		if flags&(1<<i) != 0 {
			b.WriteRune(c)
		}
	}
	return b.String()
}
