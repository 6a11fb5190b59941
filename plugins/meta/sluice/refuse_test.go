// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

// TestAddRefuses runs the whole chain; the plugin refuses what it can see, with code 7, the field and the remedy.
func TestAddRefuses(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	startAgent(t)
	tests := map[string]struct {
		spoil func(n *network)
		want  []string
	}{
		"vips, no list": {
			func(n *network) { n.sluice = `, "vips": "all"` },
			[]string{`"vips": "all" is no list of texts`, `write ["192.168.20.240-`},
		},
		"vips, reversed": {
			func(n *network) { n.sluice = `, "vips": ["10.0.0.9-10.0.0.1"]` },
			[]string{`"vips": range "10.0.0.9-10.0.0.1" is reversed`, "write 10.0.0.1-10.0.0.9"},
		},
		"vips, mixed": {
			func(n *network) { n.sluice = `, "vips": ["10.0.0.9-fd00::1"]` },
			[]string{`"vips": range "10.0.0.9-fd00::1" mixes IPv4 and IPv6`, "write one range for each"},
		},
		"segment": {
			func(n *network) { n.sluice = `, "segment": "a b"` },
			[]string{`"segment": "a b" is no segment name`, "leave the key out"},
		},
		"allowedNamespaces": {
			func(n *network) { n.sluice = `, "allowedNamespaces": []` },
			[]string{`"allowedNamespaces": the list is empty`, "leave the key out"},
		},
		"replyRouting": {
			func(n *network) { n.sluice = `, "replyRouting": "no"` },
			[]string{`"replyRouting": "no" is no truth value`, "write true or false"},
		},
		"required": {
			func(n *network) { n.sluice = `, "required": "yes"` },
			[]string{`"required": "yes" is no truth value`, "write true or false"},
		},
		"bfd": {
			func(n *network) { n.sluice = `, "bfd": {"multiplier": 1}` },
			[]string{`"bfd.multiplier": 1 is no usable multiplier`, "from 2 to 255"},
		},
		"several at once": {
			func(n *network) { n.sluice = `, "vips": ["x"], "required": 1` },
			[]string{`"required": 1 is no`, `; "vips": "x" is no address`},
		},
		"own address is VIP": {
			func(n *network) { n.sluice = `, "vips": ["192.168.20.16/28"]` },
			[]string{`address 192.168.20.20 is in "vips" (192.168.20.17-192.168.20.30)`, `end the range of "ipam"`},
		},
		"own address, IPv6": {
			func(n *network) { *n = newDualStack(t); n.sluice = `, "vips": ["fd00:20::20"]` },
			[]string{`address fd00:20::20 is in "vips"`, `move "vips"`},
		},
		"gateway is VIP": {
			func(n *network) { n.sluice = `, "vips": ["192.168.20.1"]` },
			[]string{`gateway 192.168.20.1 is in "vips"`, `leave it out of "vips"`},
		},
		"default route to it": {func(n *network) { *n = viaRoute(t) }, []string{`gateway 192.168.20.241 is in "vips"`}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := cnitest.NewPod(t, "web")
			n := newNetwork(t)
			tc.spoil(&n)
			_, err := pod.Add(t.Context(), n.String())
			wantRefusal(t, err, 7, tc.want...)
			wantNothingLeft(t, pod)
			// The runtime answers a failed ADD with a DEL.
			if err := pod.Del(t.Context(), n.String()); err != nil {
				t.Errorf("DEL after the refusal: %v", err)
			}
		})
	}
}

// viaRoute is a network whose gateway is only told by a route.
func viaRoute(t *testing.T) network {
	n := newNetwork(t)
	n.ipam = fmt.Sprintf(`{"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "192.168.20.0/24",
		"rangeStart": "192.168.20.20"}]], "routes": [{"dst": "0.0.0.0/0", "gw": "192.168.20.241"}]}`, t.TempDir())
	return n
}

// TestAddRefusesWhatNoChainMakes runs the plugin alone, as a mistaken configuration would.
func TestAddRefusesWhatNoChainMakes(t *testing.T) {
	testkit.Require(t, testkit.Root)
	const prev = `{"cniVersion": "1.0.0", "ips": []}`
	eth1 := cnitest.Master(t, "eth1")
	pod := cnitest.NewPod(t, "web")
	n := newNetwork(t)
	add := func(t *testing.T, stdin string, env map[string]string) error {
		t.Helper()
		_, err := pod.Exec(t.Context(), "ADD", stdin, env)
		return err
	}

	t.Run("not chained", func(t *testing.T) {
		err := add(t, `{"cniVersion": "1.0.0", "name": "macvlan1", "type": "sluice"}`, nil)
		wantRefusal(t, err, 7, `"prevResult" is missing`, "must be chained after macvlan")
	})
	t.Run("prevResult damaged", func(t *testing.T) {
		wantRefusal(t, add(t, n.stdin(`{"cniVersion": "1.0.0", "ips": 7}`), nil), 7, `"prevResult"`)
	})
	t.Run("no interface", func(t *testing.T) {
		wantRefusal(t, add(t, n.stdin(prev), nil), 7, "the pod has no such interface", "must be chained after macvlan")
	})
	t.Run("no namespace", func(t *testing.T) {
		err := add(t, n.stdin(prev), map[string]string{"CNI_NETNS": "/run/netns/absent"})
		wantRefusal(t, err, 8, "find the network namespace")
	})
	t.Run("another kind", func(t *testing.T) {
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0"}
		veth.Name = "net1"
		pod.Do(t, func() error { return netlink.LinkAdd(veth) })
		defer pod.Do(t, func() error { return netlink.LinkDel(veth) })
		wantRefusal(t, add(t, n.stdin(prev), nil), 7, `is of kind "veth"`, `let "type": "macvlan" or "ipvlan" make it`)
	})
	t.Run("mode source", func(t *testing.T) { // the macvlan plugin does not know it
		source := &netlink.Macvlan{LinkAttrs: netlink.NewLinkAttrs(), Mode: netlink.MACVLAN_MODE_SOURCE}
		source.Name, source.ParentIndex, source.Namespace = "net1", eth1.Attrs().Index, netlink.NsFd(pod.NS.Fd())
		if err := netlink.LinkAdd(source); err != nil {
			t.Fatal(err)
		}
		defer pod.Do(t, func() error { return netlink.LinkDel(mustLink(t, "net1")) })
		wantRefusal(t, add(t, n.stdin(prev), nil), 7, `"mode" is "source"`, "set one of them in the macvlan element")
	})
	t.Run("master in the pod", func(t *testing.T) {
		pod.Do(t, func() error { return addMacvlanOnVeth() })
		defer pod.Do(t, func() error { return netlink.LinkDel(mustLink(t, "eth0")) })
		wantRefusal(t, add(t, n.stdin(prev), nil), 7,
			"master is not in the host's network namespace", `remove "linkInContainer" from the macvlan element`)
	})
	t.Run("master in a third namespace", func(t *testing.T) {
		other := cnitest.NewPod(t, "other")
		other.Do(t, func() error {
			if err := addMacvlanOnVeth(); err != nil {
				return err
			}
			return netlink.LinkSetNsFd(mustLink(t, "net1"), int(pod.NS.Fd()))
		})
		defer other.Do(t, func() error { return netlink.LinkDel(mustLink(t, "eth0")) })
		wantRefusal(t, add(t, n.stdin(prev), nil), 7, `remove "linkInContainer"`)
	})
	wantNothingLeft(t, pod)
	if eth1.Attrs().Index == 0 {
		t.Fatal("the master has no index, so the cases prove nothing")
	}
}

// addMacvlanOnVeth makes a veth eth0 and the macvlan net1 on it, in the current network namespace.
func addMacvlanOnVeth() error {
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0p"}
	veth.Name = "eth0"
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	macvlan := &netlink.Macvlan{LinkAttrs: netlink.NewLinkAttrs(), Mode: netlink.MACVLAN_MODE_BRIDGE}
	macvlan.Name = "net1"
	macvlan.ParentIndex = veth.Attrs().Index
	return netlink.LinkAdd(macvlan)
}

func mustLink(t *testing.T, name string) netlink.Link {
	t.Helper()
	link, err := netlink.LinkByName(name) //nolint:forbidigo // one link of our own, not a dump
	if err != nil {
		t.Fatal(err)
	}
	return link
}
