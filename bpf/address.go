// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"net/netip"
)

// AddressFrom gives the form in which the programs know an address: 128 bits in network order, IPv4 mapped.
func AddressFrom(addr netip.Addr) LbAddress {
	var a LbAddress
	b := addr.As16()
	for i := range a.Word {
		a.Word[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return a
}

// Addr gives the address back, IPv4 as IPv4.
func (a LbAddress) Addr() netip.Addr {
	var b [16]byte
	for i, w := range a.Word {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}

// NetworkPort gives a port, or any __be16, as it lies in the programs' memory. It is its own inverse.
func NetworkPort(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}
