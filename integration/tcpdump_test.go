// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/integration/lab"
)

// starter is a host or a pod.
type starter interface {
	Start(name string, args ...string) (*lab.Process, error)
}

// mustDump starts tcpdump on a host or pod, as an operator would.
func mustDump(t *testing.T, on starter, ifname string) *lab.Process {
	t.Helper()
	p, err := on.Start("tcpdump", "-i", ifname, "-tnl", "tcp or udp")
	if err != nil {
		t.Fatal(err)
	}
	err = lab.Until(t.Context(), 10*time.Second, "tcpdump listens", func(context.Context) error {
		if !strings.Contains(p.Output(), "listening on") {
			return fmt.Errorf("it says %q", p.Output())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// sights lists what tcpdump shows, once each, as "eth1 In client > VIP"; names gives names to addresses.
func sights(output string, names map[netip.Addr]string) []string {
	seen := map[string]bool{}
	for line := range strings.Lines(output) {
		// "eth1  In  IP 192.168.20.5.41234 > 192.168.20.240.8080: Flags [S], ..."
		f := strings.Fields(line)
		if len(f) < 6 || f[2] != "IP" || f[4] != ">" {
			continue
		}
		from, to := names[address(f[3])], names[address(strings.TrimSuffix(f[5], ":"))]
		if from != "" && to != "" {
			seen[fmt.Sprintf("%s %s %s > %s", f[0], f[1], from, to)] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// address cuts the port off tcpdump's form.
func address(s string) netip.Addr {
	if i := strings.LastIndexByte(s, '.'); strings.Count(s, ".") == 4 {
		s = s[:i]
	}
	addr, _ := netip.ParseAddr(s)
	return addr
}

// TestWhatTcpdumpShowsWhere asserts the table of docs/troubleshooting.md, and that looking disturbs nobody: tcpdump
// makes the masters promiscuous, and has the kernel copy each packet.
func TestWhatTcpdumpShowsWhere(t *testing.T) {
	eachAttachment(t, func(t *testing.T, attach string) {
		mustTool(t, "tcpdump")
		c := mustCluster(t, attach, lab.Options{})
		pods, vips := mustWeb(t, c)
		owner := mustOwner(t, c)
		local := owner.Name[len("node"):]
		sibling := mustPod(t, owner, "sibling", "asker")
		names := map[netip.Addr]string{
			netip.MustParseAddr(vips["IPv4"]): "VIP", c.Client.Addr: "client", sibling.Addr: "sibling",
		}
		dumps, wants := map[string]*lab.Process{}, map[string][]string{
			"sibling": {"net1 In VIP > sibling", "net1 Out sibling > VIP"},
		}
		dumps["sibling"] = mustDump(t, sibling, "any")
		for i, n := range c.Nodes() {
			pod := pods[i]
			names[pod.Addr] = pod.Name
			mustDump(t, n, "eth1") // promiscuous, which "any" is not
			dumps[n.Name], dumps[pod.Name] = mustDump(t, n, "any"), mustDump(t, pod, "any")
			// On another node than the owner. P: the frame is for another MAC than the master's, here the pod's.
			wants[n.Name] = []string{
				"eth1 Out VIP > client", "eth1 Out VIP > sibling", "eth1 P client > VIP", "eth1 P sibling > VIP",
			}
			wants[pod.Name] = []string{
				"net1 In client > " + pod.Name, "net1 In sibling > " + pod.Name,
				"net1 Out " + pod.Name + " > client", "net1 Out " + pod.Name + " > sibling",
			}
		}
		wants[owner.Name] = []string{
			"eth1 In client > VIP", "eth1 Out VIP > client",
			"eth1 Out client > VIP",                          // sent on to another node
			"eth1 Out sibling > VIP", "eth1 P VIP > sibling", // with a pod of another node
			"eth1 P sibling > web" + local, "eth1 P web" + local + " > sibling", // with a pod of this node
		}
		for _, from := range []client{
			hostClient("client", c.Client),
			{name: "sibling", from: sibling, addr: addrsOf(sibling.Addr, sibling.Addr6)},
		} {
			ask(t, from, "IPv4", "load", vips.at("IPv4", "8080"), pods)
			ask(t, from, "IPv4", "udp", vips.at("IPv4", "8080"), pods)
		}
		for where, dump := range dumps {
			slices.Sort(wants[where])
			_ = lab.Until(t.Context(), 10*time.Second, "tcpdump has written", func(context.Context) error {
				if len(sights(dump.Output(), names)) < len(wants[where]) {
					return fmt.Errorf("it shows less on %s", where)
				}
				return nil
			}) // the comparison tells more
			if err := dump.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(wants[where], sights(dump.Output(), names)); diff != "" {
				t.Errorf("tcpdump on %s shows (-want +got):\n%s", where, diff)
			}
		}
	})
}
