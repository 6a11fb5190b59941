// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

// prevResult is what CHECK gets of the network that newNetwork makes; the chain itself is CheckNetworkList's business.
const prevResult = `{"cniVersion": "1.0.0", "interfaces": [{"name": "net1"}],
	"ips": [{"address": "192.168.20.20/24", "gateway": "192.168.20.1", "interface": 0}]}`

func TestCheckSucceedsAfterAdd(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	startAgent(t)
	pod := cnitest.NewPod(t, "web")
	n := newDualStack(t)
	mustAdd(t, pod, n)
	if err := pod.Check(t.Context(), n.String()); err != nil {
		t.Error(err)
	}
}

func TestCheckFindsDrift(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	cnitest.Master(t, "eth2")
	agent := startAgent(t)
	forget := func(a *agentDouble) { clear(a.held) }
	tests := map[string]struct {
		spoil  func(*testing.T, *cnitest.Pod)
		sluice string // keys of the element at CHECK
		code   uint
		want   []string
	}{
		"spool file gone": {
			mustRemoveSpool,
			"",
			100,
			[]string{"the attachment is not in /run/sluice/attachments", "delete the pod"},
		},
		"spool file damaged": {mustDamageSpool, "", 100, []string{"decode spool file", "delete the pod"}},
		"interface gone":     {mustRemoveLink, "", 7, []string{"the pod has no such interface"}},
		"another MAC": {
			mustChangeMAC,
			"",
			100,
			[]string{"the interface has MAC 02:00:00:00:00:99, and had", "let no plugin after sluice change it"},
		},
		"another master": {mustMoveToEth2, "", 100, []string{"the interface's master has ifindex", "(eth1) at ADD"}},
		"rule gone": {
			mustRemoveRule,
			"",
			100,
			[]string{`reply routing: the rule "from 192.168.20.20 lookup 51`, "delete the pod"},
		},
		"route gone": {
			mustRemoveRoute,
			"",
			100,
			[]string{"reply routing: the route to 0.0.0.0/0 in table 51", "delete the pod"},
		},
		"agent has forgotten": {
			func(*testing.T, *cnitest.Pod) { agent.set(forget) }, "", 100,
			[]string{"unknown attachment c-web/net1, though it is spooled", "see the log of sluiced"},
		},
		"agent has another": {func(t *testing.T, pod *cnitest.Pod) {
			agent.set(func(a *agentDouble) { a.held["c-web/net1"] = api.Attachment{ContainerID: "c-web"} })
		}, "", 100, []string{"another version of the attachment", "restart sluiced"}},
		"agent refuses": {func(*testing.T, *cnitest.Pod) {
			agent.set(func(a *agentDouble) { a.refusal = &api.Error{Code: 11, Msg: "starting"} })
		}, "", 11, []string{"the agent refuses: starting"}},
		"bad own keys": {func(*testing.T, *cnitest.Pod) {}, `, "vips": 7`, 7, []string{`"vips": 7 is no list`}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			agent.set(func(a *agentDouble) { a.refusal = nil })
			pod := cnitest.NewPod(t, "web")
			n := newNetwork(t)
			mustAdd(t, pod, n)
			if _, err := pod.Exec(t.Context(), "CHECK", n.stdin(prevResult), nil); err != nil {
				t.Fatalf("CHECK before the drift: %v", err)
			}
			tc.spoil(t, pod)
			n.sluice += tc.sluice
			_, err := pod.Exec(t.Context(), "CHECK", n.stdin(prevResult), nil)
			wantRefusal(t, err, tc.code, tc.want...)
		})
	}
}

func mustChangeMAC(t *testing.T, pod *cnitest.Pod) {
	t.Helper()
	pod.Do(t, func() error {
		return netlink.LinkSetHardwareAddr(mustLink(t, "net1"), net.HardwareAddr{2, 0, 0, 0, 0, 0x99})
	})
}

// mustMoveToEth2 puts an interface of the same name and MAC on another master.
func mustMoveToEth2(t *testing.T, pod *cnitest.Pod) {
	t.Helper()
	a := mustSpooled(t, pod)
	mustRemoveLink(t, pod)
	macvlan := &netlink.Macvlan{LinkAttrs: netlink.NewLinkAttrs(), Mode: netlink.MACVLAN_MODE_BRIDGE}
	macvlan.Name = "net1"
	macvlan.ParentIndex = mustLink(t, "eth2").Attrs().Index
	macvlan.HardwareAddr = a.MAC[:]
	macvlan.Namespace = netlink.NsFd(int(pod.NS.Fd()))
	if err := netlink.LinkAdd(macvlan); err != nil {
		t.Fatal(err)
	}
}

func mustRemoveRule(t *testing.T, pod *cnitest.Pod) {
	t.Helper()
	pod.Do(t, func() error {
		rules, err := netlinksafe.RuleList(netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if isReplyRule(r) {
				return netlink.RuleDel(&r)
			}
		}
		return errors.New("there is no rule to remove")
	})
}

func mustRemoveRoute(t *testing.T, pod *cnitest.Pod) {
	t.Helper()
	pod.Do(t, func() error {
		routes, err := tableRoutes(netlink.FAMILY_V4, func(table int) bool { return table >= tableBase })
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Gw.Equal(netip.MustParseAddr("192.168.20.1").AsSlice()) {
				return netlink.RouteDel(&r)
			}
		}
		return errors.New("there is no route to remove")
	})
}

func TestCheckWithoutAnAgentIsTriedAgain(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	pod := cnitest.NewPod(t, "web")
	n := newNetwork(t)
	mustAdd(t, pod, n)
	_, err := pod.Exec(t.Context(), "CHECK", n.stdin(prevResult), nil)
	wantRefusal(t, err, 11, "agent not reachable", "see that sluiced runs on this node")
}
