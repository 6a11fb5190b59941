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

func pseudoHeader(src, dst netip.Addr, proto uint8, length int) []byte {
	b := append(src.AsSlice(), dst.AsSlice()...)
	b = append(b, 0, proto)
	return binary.BigEndian.AppendUint16(b, uint16(length))
}

// VerifyChecksums checks the IPv4 header's checksum and, where the frame holds the whole segment or datagram, that of
// TCP or UDP. A UDP checksum of 0 means none. Other frames have nothing to verify.
func VerifyChecksums(frame []byte) error {
	h, ok := parse(frame)
	if !ok {
		return nil
	}
	var errs []error
	if checksum(h.ip) != 0 {
		errs = append(errs, fmt.Errorf("IPv4 header checksum %#04x is wrong", binary.BigEndian.Uint16(h.ip[10:])))
	}
	if !h.whole {
		return errors.Join(errs...)
	}
	name, field := "TCP", 16
	switch {
	case h.proto == ProtoTCP && len(h.l4) >= 20:
	case h.proto == ProtoUDP && len(h.l4) >= 8:
		name, field = "UDP", 6
	default:
		return errors.Join(errs...)
	}
	stands := binary.BigEndian.Uint16(h.l4[field:])
	if h.proto == ProtoUDP && stands == 0 {
		return errors.Join(errs...)
	}
	if checksum(pseudoHeader(h.src, h.dst, h.proto, len(h.l4)), h.l4) != 0 {
		errs = append(errs, fmt.Errorf("%s checksum %#04x is wrong", name, stands))
	}
	return errors.Join(errs...)
}
