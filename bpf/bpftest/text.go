// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/sluice-lb/sluice/internal/ether"
)

// headers is what a frame says, as far as it says it.
type headers struct {
	ip       []byte // the header with its options
	proto    uint8
	src, dst netip.Addr
	fragment uint16
	l4       []byte // up to the IP header's total length, without Ethernet padding
	whole    bool   // l4 is complete and starts with its header
}

// parse reads an untagged IPv4 frame; false if it is none or is cut off in the IP header.
func parse(frame []byte) (headers, bool) {
	var h headers
	if len(frame) < 34 || binary.BigEndian.Uint16(frame[12:]) != EtherIPv4 {
		return h, false
	}
	ip := frame[14:]
	length := int(ip[0]&0xf) * 4
	if ip[0]>>4 != 4 || length < 20 || length > len(ip) {
		return h, false
	}
	total := int(binary.BigEndian.Uint16(ip[2:]))
	h = headers{
		ip:       ip[:length],
		proto:    ip[9],
		src:      netip.AddrFrom4([4]byte(ip[12:16])),
		dst:      netip.AddrFrom4([4]byte(ip[16:20])),
		fragment: binary.BigEndian.Uint16(ip[6:]),
	}
	end := min(max(total, length), len(ip))
	h.l4 = ip[length:end]
	h.whole = h.fragment&0x3fff == 0 && total == end
	return h, true
}

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
	writeIPv4(&b, h)
	if err := VerifyChecksums(frame); err != nil {
		fmt.Fprintf(&b, "bad: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if pad := rest[len(h.ip)+len(h.l4):]; len(pad) > 0 {
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
	l4 := h.l4
	switch {
	case h.fragment&0x1fff != 0:
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
