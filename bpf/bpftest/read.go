// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// headers is what a frame says, as far as it says it.
type headers struct {
	version  uint8
	ip       []byte      // the header with IPv4's options, without IPv6's extension headers
	chain    []extension // here with their first octets
	proto    uint8
	src, dst netip.Addr
	fragment uint16 // IPv4's field
	later    bool   // a fragment without the start of layer 4
	l4       []byte // up to the length that the IP header tells, without Ethernet padding
	whole    bool   // l4 is complete, starts with its header, and src and dst are its ends
}

// parse reads an untagged IP frame; false if it is none or is cut off in the IP header.
func parse(frame []byte) (headers, bool) {
	if len(frame) < 14 {
		return headers{}, false
	}
	switch rest := frame[14:]; binary.BigEndian.Uint16(frame[12:]) {
	case EtherIPv4:
		return parseIPv4(rest)
	case EtherIPv6:
		return parseIPv6(rest)
	}
	return headers{}, false
}

func parseIPv4(ip []byte) (headers, bool) {
	if len(ip) < 20 {
		return headers{}, false
	}
	length := int(ip[0]&0xf) * 4
	if ip[0]>>4 != 4 || length < 20 || length > len(ip) {
		return headers{}, false
	}
	total := int(binary.BigEndian.Uint16(ip[2:]))
	h := headers{
		version:  4,
		ip:       ip[:length],
		proto:    ip[9],
		src:      netip.AddrFrom4([4]byte(ip[12:16])),
		dst:      netip.AddrFrom4([4]byte(ip[16:20])),
		fragment: binary.BigEndian.Uint16(ip[6:]),
	}
	end := min(max(total, length), len(ip))
	h.l4 = ip[length:end]
	h.later = h.fragment&0x1fff != 0
	h.whole = h.fragment&0x3fff == 0 && total == end
	return h, true
}

// parseIPv6 reads the whole chain of extension headers, of any length; a header that is cut off is taken for layer 4.
func parseIPv6(ip []byte) (headers, bool) {
	const fixed = 40
	if len(ip) < fixed || ip[0]>>4 != 6 {
		return headers{}, false
	}
	total := fixed + int(binary.BigEndian.Uint16(ip[4:]))
	h := headers{
		version: 6,
		ip:      ip[:fixed],
		proto:   ip[6],
		src:     netip.AddrFrom16([16]byte(ip[8:24])),
		dst:     netip.AddrFrom16([16]byte(ip[24:40])),
		l4:      ip[fixed:min(total, len(ip))],
		whole:   total <= len(ip),
	}
	for !h.later {
		length := extensionLength(h.proto, h.l4)
		if length == 0 || length > len(h.l4) {
			break
		}
		header := h.l4[:length]
		switch h.proto {
		case ExtFragment:
			where := binary.BigEndian.Uint16(header[2:])
			h.later = where&^7 != 0
			h.whole = h.whole && where&^6 == 0
		case ExtRouting:
			h.whole = h.whole && header[3] == 0 // else the checksum covers the last destination
		}
		h.chain = append(h.chain, extension{h.proto, header})
		h.proto, h.l4 = header[0], h.l4[length:]
	}
	return h, true
}

// length gives the octets of all of it.
func (h headers) length() int {
	n := len(h.ip) + len(h.l4)
	for _, e := range h.chain {
		n += len(e.rest)
	}
	return n
}

// extensionLength gives a header's octets; 0 if it is none with a next header, or its start is cut off.
func extensionLength(number uint8, at []byte) int {
	if len(at) < 8 {
		return 0
	}
	switch number {
	case ExtHopByHop, ExtDestination, ExtRouting:
		return 8 * (int(at[1]) + 1)
	case ExtFragment:
		return 8
	case ExtAH:
		return 4 * (int(at[1]) + 2)
	}
	return 0
}

// Transport is layer 4 of a frame: TCP or UDP.
type Transport struct {
	Proto    uint8
	Src, Dst netip.AddrPort
	Header   []byte // from the ports on
}

// ReadTransport reads the ends of a frame; false if it has no ports. Whatever length the IP header tells, the frame's
// own counts, as it does for the programs.
func ReadTransport(frame []byte) (Transport, bool) {
	frame = bytes.Clone(frame)
	switch {
	case len(frame) < 34:
	case binary.BigEndian.Uint16(frame[12:]) == EtherIPv4:
		binary.BigEndian.PutUint16(frame[16:], uint16(len(frame)-14))
	case binary.BigEndian.Uint16(frame[12:]) == EtherIPv6:
		binary.BigEndian.PutUint16(frame[18:], uint16(len(frame)-54))
	}
	h, ok := parse(frame)
	least := map[uint8]int{ProtoTCP: 20, ProtoUDP: 8}[h.proto]
	if !ok || h.later || least == 0 || len(h.l4) < least {
		return Transport{}, false
	}
	return Transport{
		Proto:  h.proto,
		Src:    netip.AddrPortFrom(h.src, binary.BigEndian.Uint16(h.l4)),
		Dst:    netip.AddrPortFrom(h.dst, binary.BigEndian.Uint16(h.l4[2:])),
		Header: h.l4,
	}, true
}
