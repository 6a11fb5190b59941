// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// checksum is the Internet checksum (RFC 1071) of the parts, each of which starts on an even octet of the sum.
func checksum(parts ...[]byte) uint16 {
	var sum uint64
	for _, b := range parts {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint64(b[i])<<8 | uint64(b[i+1])
		}
		if len(b)%2 == 1 {
			sum += uint64(b[len(b)-1]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// pseudoHeader is what the checksums of both families cover besides (RFC 9293 section 3.1, RFC 8200 section 8.1).
// IPv6's has 16 zero bits more in front of the length and of the protocol, which change no sum.
func pseudoHeader(src, dst netip.Addr, proto uint8, length int) []byte {
	b := append(src.AsSlice(), dst.AsSlice()...)
	b = append(b, 0, proto)
	return binary.BigEndian.AppendUint16(b, uint16(length))
}

// VerifyChecksums checks the IPv4 header's checksum and, where the frame holds the whole segment, datagram or message,
// that of TCP, UDP or ICMP, and the same of the packet that an ICMP error quotes. A UDP checksum of 0 means none. Other
// frames have nothing to verify.
func VerifyChecksums(frame []byte) error {
	h, ok := parse(frame)
	if !ok {
		return nil
	}
	var errs []error
	if h.version == 4 && checksum(h.ip) != 0 {
		errs = append(errs, fmt.Errorf("IPv4 header checksum %#04x is wrong", binary.BigEndian.Uint16(h.ip[10:])))
	}
	name, field := h.checksumField()
	if !h.whole || len(h.l4) < field+2 {
		return errors.Join(errs...)
	}
	stands := binary.BigEndian.Uint16(h.l4[field:])
	if h.proto == ProtoUDP && stands == 0 {
		return errors.Join(errs...)
	}
	pseudo := pseudoHeader(h.src, h.dst, h.proto, len(h.l4))
	if h.proto == ProtoICMP { // has none (RFC 792)
		pseudo = nil
	}
	if checksum(pseudo, h.l4) != 0 {
		errs = append(errs, fmt.Errorf("%s checksum %#04x is wrong", name, stands))
	}
	if quote := h.quoted(); quote != nil {
		if err := VerifyChecksums(quote); err != nil {
			errs = append(errs, fmt.Errorf("quoted: %w", err))
		}
	}
	return errors.Join(errs...)
}

// checksumField tells where the checksum stands in layer 4; behind its end for a protocol without one.
func (h headers) checksumField() (name string, offset int) {
	switch {
	case h.proto == ProtoTCP:
		return "TCP", 16
	case h.proto == ProtoUDP:
		return "UDP", 6
	case h.proto == ProtoICMPv6 && h.version == 6:
		return "ICMPv6", 2
	case h.proto == ProtoICMP && h.version == 4:
		return "ICMP", 2
	}
	return "", len(h.l4)
}
