// SPDX-License-Identifier: Apache-2.0

// Package ether owns the Ethernet address type that every other package shares: comparable, printable, and safe as a map
// key. It must not know of frames, interfaces or the kernel.
package ether

import (
	"fmt"
	"net"
)

// MAC is a 48-bit Ethernet address (IEEE 802 EUI-48). Its zero value means "no address".
type MAC [6]byte

// Broadcast is the address that every station on a segment receives.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ParseMAC reads the usual textual forms of a 48-bit address; longer link addresses (InfiniBand, EUI-64) are refused.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil {
		return MAC{}, fmt.Errorf("parse MAC %q: want six octets such as 02:00:5e:10:00:01", s)
	}
	return FromSlice(hw)
}

// FromSlice copies a link address as netlink reports it; anything but six octets is refused.
func FromSlice(b []byte) (MAC, error) {
	if len(b) != len(MAC{}) {
		return MAC{}, fmt.Errorf("link address has %d octets, want 6 (Ethernet)", len(b))
	}
	return MAC(b), nil
}

// IsZero tells whether the address is unset.
func (m MAC) IsZero() bool { return m == MAC{} }

// String gives the colon-separated lower-case form.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText writes the colon-separated form, and nothing for the zero value.
func (m MAC) MarshalText() ([]byte, error) {
	if m.IsZero() {
		return nil, nil
	}
	return []byte(m.String()), nil
}

// UnmarshalText reads what ParseMAC reads; empty text gives the zero value.
func (m *MAC) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*m = MAC{}
		return nil
	}
	parsed, err := ParseMAC(string(text))
	if err != nil {
		return err
	}
	*m = parsed
	return nil
}
