// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

// Routers are often known by their link-local address, which is in no subnet of the attachment's.
func TestRepliesLeaveByALinkLocalGateway(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	startAgent(t)
	pod := cnitest.NewPod(t, "web")
	mustDefaultByEth0(t, pod)
	n := newDualStack(t)
	n.ipam = strings.Replace(n.ipam, `"gateway": "fd00:20::1"`, `"gateway": "fe80::1"`, 1)
	mustAdd(t, pod, n)
	for _, tc := range []struct{ to, from, want string }{
		{"203.0.113.9", "192.168.20.20", "net1 via 192.168.20.1"},
		{"2001:db8::9", "fd00:20::20", "net1 via fe80::1"},
		{"fd00:20::99", "fd00:20::20", "net1 via <nil>"},
		{"2001:db8::9", "", "eth0 via fd00:244::1"},
	} {
		if got := route(t, pod, tc.to, tc.from); got != tc.want {
			t.Errorf("to %s from %q: %s, want %s", tc.to, tc.from, got, tc.want)
		}
	}
	if err := pod.Check(t.Context(), n.String()); err != nil {
		t.Error(err)
	}
	if err := pod.Del(t.Context(), n.String()); err != nil {
		t.Fatal(err)
	}
	wantNothingLeft(t, pod)
}

// A chain need not wait for duplicate address detection (RFC 4862 section 5.4), as macvlan does.
func TestAnAddressThatIsStillTentativeIsAttached(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	pod := cnitest.NewPod(t, "web")
	n := newNetwork(t)
	n.ipam = `{}`
	mustAdd(t, pod, n)
	addr, err := netlink.ParseAddr("fd00:20::20/64")
	if err != nil {
		t.Fatal(err)
	}
	pod.Do(t, func() error {
		const probes = "/proc/sys/net/ipv6/conf/net1/dad_transmits" // one a second
		return errors.Join(os.WriteFile(probes, []byte("600"), 0o644), netlink.AddrAdd(mustLink(t, "net1"), addr))
	})
	prev := `{"cniVersion": "1.0.0", "ips": [{"address": "fd00:20::20/64", "gateway": "fd00:20::1"}]}`
	if _, err := pod.Exec(t.Context(), "ADD", n.stdin(prev), nil); err != nil {
		t.Fatal(err)
	}
	if !isTentative(t, pod, "fd00:20::20/64") {
		t.Fatal("the address is usable already")
	}
	if got := mustSpooled(t, pod).Addresses; len(got) != 1 || got[0].String() != "fd00:20::20/64" {
		t.Errorf("addresses = %v, want fd00:20::20/64", got)
	}
	if len(routing(t, pod)) == 0 {
		t.Error("there is no reply routing")
	}
}

func isTentative(t *testing.T, pod *cnitest.Pod, want string) (tentative bool) {
	t.Helper()
	pod.Do(t, func() error {
		addrs, err := netlinksafe.AddrList(mustLink(t, "net1"), netlink.FAMILY_V6)
		for _, a := range addrs {
			tentative = tentative || a.IPNet.String() == want && a.Flags&unix.IFA_F_TENTATIVE != 0
		}
		return err
	})
	return tentative
}
