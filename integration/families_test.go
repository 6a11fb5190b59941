// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/integration/lab"
)

// onlyIPv6 is a network without IPv4 on the segment that has it, and a Service of a cluster that has IPv4 alone.
var onlyIPv6 = lab.NAD{
	Name:   "macvlan6",
	Ranges: []lab.Range{{Subnet: "fd00:20::/64", Start: "fd00:20::1000", End: "fd00:20::1fff", Gateway: "fd00:20::1"}},
	VIPs:   []string{"fd00:20::2000-fd00:20::200f"},
}.YAML() + `---
apiVersion: v1
kind: Service
metadata:
  name: six
  namespace: default
  annotations: {sluice-lb.io/networks: macvlan6, sluice-lb.io/ip-families: IPv6}
spec:
  type: LoadBalancer
  loadBalancerClass: sluice-lb.io/sluice
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  selector: {app: six}
  ports:
  - {name: http, protocol: TCP, port: 8080, targetPort: 80}
  - {name: datagrams, protocol: UDP, port: 8080, targetPort: 80}
`

func TestNetworkWithIPv6Alone(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{})
	mustApply(t, c, "six.yaml", onlyIPv6)
	var pods []*lab.Pod
	for i, n := range c.Nodes()[:2] {
		pods = append(pods, mustPodOn(t, n, "macvlan6", fmt.Sprintf("six%d", i+1), "six"))
	}
	vips := mustServedOn(t, c, 1, "default/six", pods...)
	if len(vips) != 1 || vips["IPv6"] == "" {
		t.Fatalf("VIPs %v, want one of IPv6", vips)
	}
	for _, client := range clients(t, c, pods, vips) {
		ask(t, client, "IPv6", "load", vips.at("IPv6", "8080"), pods)
		ask(t, client, "IPv6", "udp", vips.at("IPv6", "8080"), pods)
	}
}

// Neighbours that know a VIP hear when it moves: only the new owner's announcement can tell them.
func TestNeighboursFollowAVIPThatMoves(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{})
	_, vips := mustWeb(t, c)
	mustAnswer(t, c, vips)
	for _, f := range families {
		owner := mustBeKnown(t, f, c.Client, vips, c.Nodes())
		facts, err := os.ReadFile("../netconf-examples/node-facts.yaml")
		if err != nil {
			t.Fatal(err)
		}
		others := slices.DeleteFunc(strings.Split(string(facts), "---\n"), func(lease string) bool {
			return strings.Contains(lease, "name: "+owner.Name)
		})
		mustApply(t, c, "node-facts.yaml", strings.Join(others, "---\n"))
		var successors []*lab.Node
		for _, n := range c.Nodes() {
			if n != owner {
				successors = append(successors, n)
			}
		}
		mustBeKnown(t, f, c.Client, vips, successors)
		mustAnswer(t, c, vips)
	}
}

// mustBeKnown waits until a host takes one of some nodes for a VIP, and gives that node.
func mustBeKnown(t *testing.T, f family, h *lab.Host, vips addrs, nodes []*lab.Node) *lab.Node {
	t.Helper()
	macs := map[string]*lab.Node{}
	for _, n := range nodes {
		out, err := n.Command(t.Context(), "cat", "/sys/class/net/eth1/address").Output()
		if err != nil {
			t.Fatal(err)
		}
		macs[strings.TrimSpace(string(out))] = n
	}
	var owner *lab.Node
	err := lab.Until(t.Context(), 20*time.Second, "the VIP is known to be on one of the nodes", func(ctx context.Context) error {
		out, err := h.Command(ctx, "ip", "neigh", "show", vips[f]).Output()
		for mac, n := range macs {
			if strings.Contains(string(out), "lladdr "+mac+" ") {
				owner = n
				return nil
			}
		}
		return fmt.Errorf("neighbours are %q: %w", out, err)
	})
	if err != nil {
		out, _ := h.Command(t.Context(), "ip", "neigh", "show").Output()
		t.Fatalf("%v\nneighbours:\n%s", err, out)
	}
	return owner
}
