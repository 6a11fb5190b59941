// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

func TestRepliesChooseTheGatewayOfTheSubnet(t *testing.T) {
	tests := map[string]struct {
		addrs, gateways []string
		want            []string // address, gateway, table
	}{
		"no gateway":   {addrs: []string{"10.1.0.5/24"}},
		"other family": {addrs: []string{"10.1.0.5/24"}, gateways: []string{"fd00::1"}},
		"one of each": {
			[]string{"10.1.0.5/24", "fd00::5/64"},
			[]string{"10.1.0.1", "fd00::1"},
			[]string{"10.1.0.5/24 10.1.0.1 51000700", "fd00::5/64 fd00::1 51000701"},
		},
		"two subnets": {
			[]string{"10.1.0.5/24", "10.2.0.5/24"},
			[]string{"10.2.0.1", "10.1.0.1"},
			[]string{"10.1.0.5/24 10.1.0.1 51000701", "10.2.0.5/24 10.2.0.1 51000700"},
		},
		"gateway beyond": {[]string{"10.1.0.5/32"}, []string{"10.9.0.1"}, []string{"10.1.0.5/32 10.9.0.1 51000700"}},
		"link-local":     {[]string{"fd00::5/64"}, []string{"fe80::1"}, []string{"fd00::5/64 fe80::1 51000700"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var a api.Attachment
			for _, s := range tc.addrs {
				a.Addresses = append(a.Addresses, netip.MustParsePrefix(s))
			}
			for _, s := range tc.gateways {
				a.Gateways = append(a.Gateways, netip.MustParseAddr(s))
			}
			var got []string
			for _, r := range replies(a, 7) {
				got = append(got, fmt.Sprintf("%s %s %d", r.addr, r.gateway, r.table))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("replies (-want +got):\n%s", diff)
			}
		})
	}
}

// mustDefaultByEth0 gives the pod an eth0 with the default routes, as the cluster's own network does.
func mustDefaultByEth0(t *testing.T, pod *cnitest.Pod) {
	t.Helper()
	pod.Do(t, func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "cluster"}
		veth.Name = "eth0"
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		for _, name := range []string{"eth0", "cluster"} {
			if err := netlink.LinkSetUp(mustLink(t, name)); err != nil {
				return err
			}
		}
		for _, s := range []string{"10.244.0.5/24", "fd00:244::5/64"} {
			addr, err := netlink.ParseAddr(s)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(veth, addr); err != nil {
				return err
			}
		}
		for _, gateway := range []string{"10.244.0.1", "fd00:244::1"} {
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: veth.Attrs().Index, Gw: net.ParseIP(gateway)}); err != nil {
				return err
			}
		}
		return nil
	})
}

// route gives the interface and gateway by which the pod sends to an address from one of its own, or from any.
func route(t *testing.T, pod *cnitest.Pod, to, from string) string {
	t.Helper()
	var out string
	pod.Do(t, func() error {
		found, err := netlink.RouteGetWithOptions(net.ParseIP(to), &netlink.RouteGetOptions{SrcAddr: net.ParseIP(from)})
		if err != nil {
			return err
		}
		link, err := netlink.LinkByIndex(found[0].LinkIndex)
		if err != nil {
			return err
		}
		out = fmt.Sprintf("%s via %s", link.Attrs().Name, found[0].Gw)
		return nil
	})
	return out
}

func TestRepliesLeaveByTheInterfaceThatTheyBelongTo(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	pod := cnitest.NewPod(t, "web")
	mustDefaultByEth0(t, pod)
	mustAdd(t, pod, newDualStack(t))
	for _, tc := range []struct{ to, from, want string }{
		{"203.0.113.9", "192.168.20.20", "net1 via 192.168.20.1"},
		{"203.0.113.9", "", "eth0 via 10.244.0.1"},
		{"203.0.113.9", "10.244.0.5", "eth0 via 10.244.0.1"},
		{"192.168.20.99", "192.168.20.20", "net1 via <nil>"},
		{"2001:db8::9", "fd00:20::20", "net1 via fd00:20::1"},
		{"2001:db8::9", "fd00:244::5", "eth0 via fd00:244::1"},
		{"fd00:20::99", "fd00:20::20", "net1 via <nil>"},
	} {
		if got := route(t, pod, tc.to, tc.from); got != tc.want {
			t.Errorf("to %s from %q: %s, want %s", tc.to, tc.from, got, tc.want)
		}
	}
}

func TestReplyRoutingIsLeftToOthers(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	t.Run("switched off", func(t *testing.T) {
		pod := cnitest.NewPod(t, "web")
		n := newNetwork(t)
		n.sluice += `, "replyRouting": false`
		mustAdd(t, pod, n)
		wantNoRouting(t, pod)
	})
	t.Run("network without a gateway", func(t *testing.T) {
		pod := cnitest.NewPod(t, "web")
		n := newNetwork(t)
		n.ipam = `{}`
		mustAdd(t, pod, n)
		addr, err := netlink.ParseAddr("192.168.20.20/24")
		if err != nil {
			t.Fatal(err)
		}
		pod.Do(t, func() error { return netlink.AddrAdd(mustLink(t, "net1"), addr) })
		prev := `{"cniVersion": "1.0.0", "ips": [{"address": "192.168.20.20/24"}]}`
		if _, err := pod.Exec(t.Context(), "ADD", n.stdin(prev), nil); err != nil {
			t.Fatal(err)
		}
		if got := mustSpooled(t, pod).Addresses; len(got) != 1 {
			t.Errorf("addresses = %v, want the one that the kernel has", got)
		}
		wantNoRouting(t, pod)
	})
	t.Run("somebody else's rule, as of sbr", func(t *testing.T) {
		pod := cnitest.NewPod(t, "web")
		foreign := netlink.NewRule()
		foreign.Src = ipNet(netip.MustParsePrefix("192.168.20.20/32"))
		foreign.Table = 100
		pod.Do(t, func() error { return netlink.RuleAdd(foreign) })
		mustAdd(t, pod, newNetwork(t))
		wantNoRouting(t, pod)
		if err := pod.Del(t.Context(), newNetwork(t).String()); err != nil {
			t.Fatal(err)
		}
		pod.Do(t, func() error {
			rules, err := netlinksafe.RuleList(netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			for _, r := range rules {
				if r.Table == 100 {
					return nil
				}
			}
			t.Error("DEL removed somebody else's rule")
			return nil
		})
	})
	t.Run("a rule with a mark says something else", func(t *testing.T) {
		pod := cnitest.NewPod(t, "web")
		marked := netlink.NewRule()
		marked.Src = ipNet(netip.MustParsePrefix("192.168.20.20/32"))
		marked.Table, marked.Mark = 100, 7
		pod.Do(t, func() error { return netlink.RuleAdd(marked) })
		mustAdd(t, pod, newNetwork(t))
		if len(routing(t, pod)) == 0 {
			t.Error("there is no reply routing")
		}
	})
}

// mustAddSecond attaches a pod to another network too, as net2 with 192.168.30.2.
func mustAddSecond(t *testing.T, pod *cnitest.Pod) (*cnitest.Pod, network) {
	t.Helper()
	second := *pod
	second.IfName = "net2"
	other := newNetwork(t)
	other.ipam = fmt.Sprintf(`{"type": "host-local", "dataDir": %q, "subnet": "192.168.30.0/24"}`, t.TempDir())
	mustAdd(t, &second, other)
	return &second, other
}

func TestTwoInterfacesOfAPodDoNotMix(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	pod := cnitest.NewPod(t, "web")
	first := newNetwork(t)
	mustAdd(t, pod, first)
	before := routing(t, pod)

	second, other := mustAddSecond(t, pod)
	if got := route(t, pod, "203.0.113.9", "192.168.30.2"); got != "net2 via 192.168.30.1" {
		t.Errorf("from net2's address: %s", got)
	}
	if got := route(t, pod, "203.0.113.9", "192.168.20.20"); got != "net1 via 192.168.20.1" {
		t.Errorf("from net1's address: %s", got)
	}
	if err := second.Del(t.Context(), other.String()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, routing(t, pod)); diff != "" {
		t.Errorf("routing of net1 after DEL of net2 (-want +got):\n%s", diff)
	}
}
