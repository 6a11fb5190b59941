// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func addrs(n int) []netip.Addr {
	out := make([]netip.Addr, n)
	for i := range out {
		out[i] = netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)})
	}
	return out
}

func nodes(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("node-%d", i+1)
	}
	return out
}

// Nodes of different releases must agree on the owner. If this test fails, the change gives one VIP two owners during an
// upgrade: it is the change that is wrong, not the text.
func TestRankNeverChangesBetweenReleases(t *testing.T) {
	var got strings.Builder
	for _, vip := range []string{"192.168.20.240", "192.168.20.241", "192.168.20.242", "fd00:20::f0"} {
		fmt.Fprintf(&got, "%s %s\n", vip, strings.Join(Rank(netip.MustParseAddr(vip), nodes(4)), " "))
	}
	want := `192.168.20.240 node-4 node-2 node-3 node-1
192.168.20.241 node-4 node-3 node-1 node-2
192.168.20.242 node-1 node-2 node-4 node-3
fd00:20::f0 node-1 node-3 node-2 node-4
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("ranking changed (-want +got):\n%s", diff)
	}
}

func TestRankIgnoresOrderAndRepetition(t *testing.T) {
	candidates := []string{"c", "a", "b", "a", "c"}
	given := slices.Clone(candidates)
	vip := netip.MustParseAddr("192.168.20.240")
	if diff := cmp.Diff(Rank(vip, []string{"a", "b", "c"}), Rank(vip, candidates)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(given, candidates); diff != "" {
		t.Errorf("the argument was changed: %s", diff)
	}
	mapped := netip.MustParseAddr("::ffff:192.168.20.240")
	if diff := cmp.Diff(Rank(vip, candidates), Rank(mapped, candidates)); diff != "" {
		t.Errorf("the two forms of one address rank differently: %s", diff)
	}
}

func TestNoCandidatesGiveNoOwner(t *testing.T) {
	if got := Rank(netip.MustParseAddr("192.168.20.240"), nil); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}

func TestVIPsSpreadOverNodes(t *testing.T) {
	const vips, members = 3000, 3
	owned := map[string]int{}
	for _, vip := range addrs(vips) {
		owned[Rank(vip, nodes(members))[0]]++
	}
	for _, node := range nodes(members) {
		if n := owned[node]; n < vips/members*9/10 || n > vips/members*11/10 {
			t.Errorf("%s owns %d of %d VIPs", node, n, vips)
		}
	}
}

func TestALeavingNodeMovesOnlyItsOwnVIPs(t *testing.T) {
	all := nodes(5)
	gone := all[2]
	rest := slices.Delete(slices.Clone(all), 2, 3)
	for _, vip := range addrs(1000) {
		before, after := Rank(vip, all), Rank(vip, rest)
		want := slices.DeleteFunc(before, func(n string) bool { return n == gone })
		if diff := cmp.Diff(want, after); diff != "" {
			t.Fatalf("%s: %s", vip, diff)
		}
	}
}
