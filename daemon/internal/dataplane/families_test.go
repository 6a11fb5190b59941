// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

// One pod behind a VIP of each family: nothing of one family takes the place of the other's.
func TestApplyWritesBothFamilies(t *testing.T) {
	n := newNode(t)
	d := n.open(AttachAuto)
	m := n.addMaster("eth1")
	m.Addrs = []netip.Addr{netip.MustParseAddr("192.168.20.2"), netip.MustParseAddr("fe80::2")}
	s := state(m)
	s.Masters[0] = m
	pod := ether.MAC{2, 0, 0, 0, 0, 1}
	s.Pods[0].Addrs = append(s.Pods[0].Addrs, netip.MustParseAddr("fd00:20::21"), netip.MustParseAddr("fe80::ff:fe00:1"))
	s.VIPs = append(s.VIPs, lb.VIP{
		Master: m.Index, Segment: m.Segment, Addr: netip.MustParseAddr("fd00:20::f0"), Candidates: []string{"a"}, Owned: true,
	})
	s.Frontends[0].Backends = s.Frontends[0].Backends[:1]
	six := s.Frontends[0]
	six.Addr = netip.MustParseAddrPort("[fd00:20::f0]:80")
	six.Backends = []lb.Backend{{
		Addr: netip.MustParseAddrPort("[fd00:20::21]:8080"), MAC: pod, Node: "a", Pod: "default/web-1", Local: true,
		State: lb.BackendActive,
	}}
	s.Frontends = append(s.Frontends, six)
	n.apply(d, s)
	want := strings.ReplaceAll(strings.TrimSpace(`
address 192.168.20.2 kind=3 mac=MASTER flags=0
address 192.168.20.21 kind=2 mac=02:00:00:00:00:01 flags=0
address 192.168.20.240 kind=1 mac=MASTER flags=0
address fd00:20::21 kind=2 mac=02:00:00:00:00:01 flags=0
address fd00:20::f0 kind=1 mac=MASTER flags=0
address fe80::2 kind=3 mac=MASTER flags=0
address fe80::ff:fe00:1 kind=2 mac=02:00:00:00:00:01 flags=0
backend 192.168.20.21:8080 mac=02:00:00:00:00:01 flags=3 numbered=true
backend [fd00:20::21]:8080 mac=02:00:00:00:00:01 flags=3 numbered=true
local 02:00:00:00:00:01 -> 192.168.20.21:8080
local 02:00:00:00:00:01 -> [fd00:20::21]:8080
service 192.168.20.240:80 proto=6 table=map[192.168.20.21:8080:4093]
service fd00:20::f0:80 proto=6 table=map[[fd00:20::21]:8080:4093]
station 02:00:00:00:00:01 kind=1 flags=0 numbered=true
`), "MASTER", m.MAC.String())
	if diff := cmp.Diff(want, dump(t, d)); diff != "" {
		t.Errorf("maps (-want +got):\n%s", diff)
	}
	for _, vip := range []string{"192.168.20.240", "fd00:20::f0"} {
		if !n.owns(d, m, vip) {
			t.Errorf("%s is not in the owners map", vip)
		}
	}
}
