// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func mustPool(t testing.TB, entries ...string) Pool {
	t.Helper()
	p, err := ParsePool(entries)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParsePoolNormalises(t *testing.T) {
	tests := map[string]struct {
		entries []string
		want    string
		len     uint64
	}{
		"nothing":                  {entries: nil, want: "", len: 0},
		"one address":              {entries: []string{"192.168.20.240"}, want: "192.168.20.240", len: 1},
		"range":                    {entries: []string{"10.0.0.1-10.0.0.9"}, want: "10.0.0.1-10.0.0.9", len: 9},
		"range with spaces":        {entries: []string{"10.0.0.1 - 10.0.0.9"}, want: "10.0.0.1-10.0.0.9", len: 9},
		"block without its ends":   {entries: []string{"10.0.0.8/29"}, want: "10.0.0.9-10.0.0.14", len: 6},
		"smallest block with ends": {entries: []string{"10.0.0.8/30"}, want: "10.0.0.9-10.0.0.10", len: 2},
		"point to point block":     {entries: []string{"10.0.0.8/31"}, want: "10.0.0.8-10.0.0.9", len: 2},
		"block of one":             {entries: []string{"10.0.0.8/32"}, want: "10.0.0.8", len: 1},
		"IPv6 block":               {entries: []string{"fd00:20::f0/124"}, want: "fd00:20::f0-fd00:20::ff", len: 16},
		"neighbours and overlaps merge": {
			entries: []string{"10.0.0.5-10.0.0.9", "10.0.0.4", "10.0.0.1-10.0.0.6"},
			want:    "10.0.0.1-10.0.0.9",
			len:     9,
		},
		"both families, IPv4 first": {entries: []string{"fd00::1", "10.0.0.1"}, want: "10.0.0.1, fd00::1", len: 2},
		"more than can be counted": {
			entries: []string{"fd00::/16"},
			want:    "fd00::1-fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
			len:     math.MaxUint64,
		},
		"subnet without its routers' address": {
			entries: []string{"fd00::/64"},
			want:    "fd00::1-fd00::ffff:ffff:ffff:ffff",
			len:     math.MaxUint64,
		},
		"exactly one too many": {
			entries: []string{"fd00::-fd00::ffff:ffff:ffff:ffff"},
			want:    "fd00::-fd00::ffff:ffff:ffff:ffff",
			len:     math.MaxUint64,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := mustPool(t, tc.entries...)
			if diff := cmp.Diff(tc.want, p.String()); diff != "" {
				t.Errorf("String (-want +got):\n%s", diff)
			}
			if got := p.Len(); got != tc.len {
				t.Errorf("Len = %d, want %d", got, tc.len)
			}
		})
	}
}

func TestParsePoolRefuses(t *testing.T) {
	tests := map[string]struct{ entry, want string }{
		"empty text":     {"", `"" is no address: write one such as`},
		"a name":         {"example.com", `"example.com" is no address: write one such as`},
		"reversed":       {"10.0.0.9-10.0.0.1", "is reversed: write 10.0.0.1-10.0.0.9"},
		"mixed families": {"10.0.0.1-fd00::1", "mixes IPv4 and IPv6: write one range for each family"},
		"half a range":   {"10.0.0.1-", `range "10.0.0.1-": "" is no address`},
		"host bits": {
			"10.0.0.9/29",
			"has host bits: write 10.0.0.8/29 for the block, or 10.0.0.9 for the one address",
		},
		"bad prefix":       {"10.0.0.0/33", `"10.0.0.0/33" is no CIDR: write one such as`},
		"zone":             {"fe80::1%eth0", `has a zone: leave out "%eth0"`},
		"multicast":        {"239.0.0.1", "holds multicast, reserved or broadcast addresses (224.0.0.0/3)"},
		"broadcast":        {"255.255.255.255", "holds multicast, reserved or broadcast addresses"},
		"loopback":         {"127.0.0.1", "holds loopback addresses"},
		"loopback inside":  {"126.0.0.1-128.0.0.1", "holds loopback addresses"},
		"unspecified":      {"0.0.0.0", `holds "this network" addresses`},
		"everything":       {"::/0", "holds the unspecified or the loopback address"},
		"IPv4-mapped":      {"::ffff:10.0.0.1", "holds IPv4-mapped addresses"},
		"IPv6 link-local":  {"fe80::1", "holds link-local addresses"},
		"IPv6 multicast":   {"ff02::1", "holds multicast addresses"},
		"IPv6 unspecified": {"::", "holds the unspecified or the loopback address"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ParsePool([]string{"10.0.0.1", tc.entry})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestPoolSetOperations(t *testing.T) {
	p := mustPool(t, "10.0.0.1-10.0.0.9", "fd00::1-fd00::9")
	tests := map[string]struct{ got, want string }{
		"intersect inside":    {p.Intersect(mustPool(t, "10.0.0.3-10.0.0.4")).String(), "10.0.0.3-10.0.0.4"},
		"intersect at an end": {p.Intersect(mustPool(t, "10.0.0.9-10.0.0.20")).String(), "10.0.0.9"},
		"intersect nothing":   {p.Intersect(mustPool(t, "10.0.0.10", "fd00::a")).String(), ""},
		"without the middle": {
			p.Without(mustPool(t, "10.0.0.3")).String(),
			"10.0.0.1-10.0.0.2, 10.0.0.4-10.0.0.9, fd00::1-fd00::9",
		},
		"without the ends": {
			p.IPv4().Without(mustPool(t, "10.0.0.1", "10.0.0.8-10.0.0.30")).String(),
			"10.0.0.2-10.0.0.7",
		},
		"without all":     {p.Without(p).String(), ""},
		"without nothing": {p.Without(Pool{}).String(), p.String()},
		"IPv4":            {p.IPv4().String(), "10.0.0.1-10.0.0.9"},
		"IPv6":            {p.IPv6().String(), "fd00::1-fd00::9"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if tc.got != tc.want {
				t.Errorf("got %q, want %q", tc.got, tc.want)
			}
		})
	}
	if p.Overlaps(mustPool(t, "10.0.0.10")) || !p.Overlaps(mustPool(t, "fd00::9")) {
		t.Error("Overlaps disagrees with Intersect")
	}
}

func TestPoolEqualsHoweverItIsWritten(t *testing.T) {
	a := mustPool(t, "10.0.0.8/29", "10.0.0.20")
	b := mustPool(t, "10.0.0.20", "10.0.0.12-10.0.0.14", "10.0.0.9-10.0.0.11")
	if !a.Equal(b) {
		t.Errorf("%s and %s hold the same addresses, but are not Equal", a, b)
	}
	if a.Equal(mustPool(t, "10.0.0.8/29")) {
		t.Error("a pool with one address fewer is Equal")
	}
}

func TestPoolAllYieldsEachAddressOnce(t *testing.T) {
	p := mustPool(t, "fd00::1-fd00::2", "10.0.0.252/30", "10.0.0.1")
	got := slices.Collect(p.All())
	want := []netip.Addr{
		netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.253"), netip.MustParseAddr("10.0.0.254"),
		netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"),
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	for _, a := range got {
		if !p.Contains(a) {
			t.Errorf("All yields %s, which the pool does not contain", a)
		}
	}
	if p.Contains(netip.MustParseAddr("10.0.0.252")) {
		t.Error("the pool contains a network address")
	}
	for range mustPool(t, "fd00::/64").All() { // must be lazy
		break
	}
}

// FuzzParsePool checks that what is accepted reads back as the same pool.
func FuzzParsePool(f *testing.F) {
	for _, seed := range []string{
		"10.0.0.1", "10.0.0.8/29", "10.0.0.1-10.0.0.9", "fd00::/64", "::1-::2", "a-b", "/", "-",
	} {
		f.Add(seed, "10.0.0.5")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		p, err := ParsePool([]string{a, b})
		if err != nil {
			return
		}
		if p.IsEmpty() {
			t.Fatalf("%q and %q were accepted as an empty pool", a, b)
		}
		again, err := ParsePool(strings.Split(p.String(), ", "))
		if err != nil {
			t.Fatalf("read back %q: %v", p, err)
		}
		if !again.Equal(p) {
			t.Fatalf("%q reads back as %q", p, again)
		}
		if !p.Without(p).IsEmpty() || !p.Intersect(p).Equal(p) {
			t.Fatalf("set algebra breaks on %q", p)
		}
	})
}
