// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/integration/lab"
)

// A switch that snoops sends a solicitation only to the members of its multicast group: if the owner is none, nobody finds
// the VIP.
func TestIPv6VIPIsFoundBehindASwitchThatSnoops(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{Snoop: true})
	_, vips := mustWeb(t, c)
	group := solicitedNode(t, vips["IPv6"])
	err := lab.Until(t.Context(), 20*time.Second, "the switch knows one member of "+group, func(ctx context.Context) error {
		out, err := c.Switch.Command(ctx, "bridge", "mdb", "show", "dev", "br0").Output()
		if n := strings.Count(string(out), "grp "+group+" "); err == nil && n != 1 {
			err = fmt.Errorf("it knows %d:\n%s", n, out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	mustFlush(t, c.Client)
	mustAnswer(t, c, vips)
}

// solicitedNode gives the group of RFC 4291 section 2.7.1 for an address that ends in "::" and up to four digits.
func solicitedNode(t *testing.T, addr string) string {
	t.Helper()
	_, last, ok := strings.Cut(addr, "::")
	if !ok || len(last) > 4 {
		t.Fatalf("%s has another form", addr)
	}
	return "ff02::1:ff00:" + last
}

// mustFlush makes a host forget its neighbours.
func mustFlush(t *testing.T, h *lab.Host) {
	t.Helper()
	for _, family := range []string{"-4", "-6"} {
		if err := h.Command(t.Context(), "ip", family, "neigh", "flush", "all").Run(); err != nil {
			t.Fatal(err)
		}
	}
}

// The kernel keeps a node and its own macvlan pods apart, so all that they know of each other's addresses is what they are
// told, link-local ones among them.
func TestNodeAndItsPodsReachEachOther(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{})
	n := c.Node(1)
	pod := mustPod(t, n, "web1", "web")
	mustServed(t, c, "default/web", pod)
	if _, err := n.Start("traffic", "serve", "-name", n.Name); err != nil {
		t.Fatal(err)
	}
	pairs := map[string][2]string{ // what the pod asks, what the node asks
		"IPv4":       {n.Addr.String(), pod.Addr.String()},
		"IPv6":       {n.Addr6.String(), pod.Addr6.String()},
		"link-local": {linkLocal(t, n, "eth1") + "%net1", linkLocal(t, pod, "net1") + "%eth1"},
	}
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			for asker, target := range map[runner]string{pod: pair[0], n: pair[1]} {
				mustFlush(t, n.Host)
				err := lab.Until(t.Context(), 10*time.Second, target+" answers", func(ctx context.Context) error {
					return asker.Command(ctx, "traffic", "load", "-n", "10", "["+target+"]:80").Run()
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// linkLocal gives the link-local address of an interface.
func linkLocal(t *testing.T, on runner, ifname string) string {
	t.Helper()
	out, err := on.Command(t.Context(), "ip", "-6", "-o", "addr", "show", "dev", ifname, "scope", "link").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, addr, _ := strings.Cut(string(out), "inet6 ")
	addr, _, ok := strings.Cut(addr, "/")
	if !ok {
		t.Fatalf("%s has no link-local address: %q", ifname, out)
	}
	return addr
}
