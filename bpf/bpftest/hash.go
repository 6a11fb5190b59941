// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Slot gives the slot of a table of that size which a new flow falls into. It is written from the definition and shares
// nothing with the C: all nodes must agree on it, whatever compiles them.
func Slot(proto uint8, src, dst netip.AddrPort, size uint32) uint32 {
	return slot(TupleHash(proto, src, dst), size)
}

// ClientSlot is Slot where a client keeps its backend.
func ClientSlot(client netip.Addr, size uint32) uint32 { return slot(ClientHash(client), size) }

func slot(hash, size uint32) uint32 {
	hi, _ := bits.Mul64(uint64(hash)<<32, uint64(size))
	return uint32(hi)
}

// TupleHash is the hash of a flow as its first packet shows it.
func TupleHash(proto uint8, src, dst netip.AddrPort) uint32 {
	h := addressesHash(src.Addr(), dst.Addr())
	ports := uint64(bits.ReverseBytes16(src.Port()))<<32 + uint64(bits.ReverseBytes16(dst.Port()))<<16
	return uint32(murmurFinal(h ^ (ports + uint64(proto))))
}

// ClientHash is the hash of a client, whatever its ports and whichever VIP it talks to.
func ClientHash(client netip.Addr) uint32 { return uint32(addressesHash(client)) }

func addressesHash(addresses ...netip.Addr) uint64 {
	var h uint64
	for _, a := range addresses {
		octets := a.As16() // IPv4 in ::ffff:0:0/96
		for half := 0; half < 16; half += 8 {
			// Two 32-bit words, the first in the upper half, each in memory order of a little-endian machine.
			first := uint64(binary.LittleEndian.Uint32(octets[half:]))
			second := uint64(binary.LittleEndian.Uint32(octets[half+4:]))
			h = murmurFinal(h ^ (first<<32 + second))
		}
	}
	return h
}

// murmurFinal is MurmurHash3's fmix64.
func murmurFinal(k uint64) uint64 {
	for _, factor := range []uint64{0xff51afd7ed558ccd, 0xc4ceb9fe1a85ec53} {
		k ^= k >> 33
		k *= factor
	}
	return k ^ k>>33
}
