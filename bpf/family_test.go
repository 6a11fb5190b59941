// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

// family is the IP version that a world speaks. Tests are written in IPv4's addresses; a world translates them.
type family int

const (
	ipv4 family = 4
	ipv6 family = 6
)

func (f family) String() string { return map[family]string{ipv4: "IPv4", ipv6: "IPv6"}[f] }

// eachFamily runs a test once in each family.
func eachFamily(t *testing.T, test func(t *testing.T, f family)) {
	t.Helper()
	for _, f := range []family{ipv4, ipv6} {
		t.Run(f.String(), func(t *testing.T) { test(t, f) })
	}
}

// addr gives an IPv4 address in the family. In IPv6 two of them differ in each word, so that a rewrite that forgets one
// shows; the last word is the IPv4 address.
func (f family) addr(a netip.Addr) netip.Addr {
	if f == ipv4 || !a.Is4() {
		return a
	}
	if a.IsUnspecified() {
		return netip.IPv6Unspecified()
	}
	v4 := a.As4()
	last := v4[3]
	return netip.AddrFrom16([16]byte{0xfd, last, 0, 0, 0, 0, 0, last, last, 0, 0, 0, v4[0], v4[1], v4[2], v4[3]})
}

// prefix gives the prefix of an IPv4 address in the family: as many of its last bits are free.
func (f family) prefix(text string) netip.Prefix {
	p := netip.MustParsePrefix(text)
	if f == ipv6 {
		p = netip.PrefixFrom(f.addr(p.Addr()), 96+p.Bits())
	}
	return p.Masked()
}

// inIPv4 is addr's inverse.
func inIPv4(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	octets := a.As16()
	return netip.AddrFrom4([4]byte(octets[12:]))
}

func (f family) at(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(f.addr(a.Addr()), a.Port())
}

func (f family) pod(p bpftest.Pod) bpftest.Pod {
	p.Addr = f.addr(p.Addr)
	return p
}

func (f family) backend(b bpftest.Backend) bpftest.Backend {
	b.Pod = f.pod(b.Pod)
	return b
}

func (f family) packet(p bpftest.Packet) bpftest.Packet { return p.Map(f.addr) }

var addressInText = regexp.MustCompile(`\d+(\.\d+){3}(:\d+)?`)

// text translates the sorted lines of a dump.
func (f family) text(s string) string {
	lines := strings.Split(addressInText.ReplaceAllStringFunc(s, func(found string) string {
		if at, err := netip.ParseAddrPort(found); err == nil {
			return f.at(at).String()
		}
		return f.addr(netip.MustParseAddr(found)).String()
	}), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
