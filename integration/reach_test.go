// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"testing"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

// TestEveryClientIsAnsweredByEveryPod
//
//	client ---+--- node1 (host, asker, web1)
//	remote -- router    node2 (host, asker, web2)      each asks VIP:8080 by TCP and UDP
//	          +--- node3 (host, asker, web3)
func TestEveryClientIsAnsweredByEveryPod(t *testing.T) {
	eachAttachment(t, func(t *testing.T, attach string) {
		c := mustCluster(t, attach, lab.Options{})
		pods, vips := mustWeb(t, c)
		all := clients(t, c, pods, vips)
		eachFamily(t, func(t *testing.T, f family) {
			for _, client := range all {
				t.Run(client.name, func(t *testing.T) {
					ask(t, client, f, "load", vips.at(f, "8080"), pods)
					ask(t, client, f, "load", vips.at(f, "80"), pods)
					ask(t, client, f, "udp", vips.at(f, "8080"), pods)
				})
			}
		})
	})
}

// A switch that floods shows every frame to every node: only the node that it is for may act.
func TestFloodedFramesAreBalancedOnce(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{Flood: true})
	pods, vips := mustWeb(t, c)
	all := clients(t, c, pods, vips)
	eachFamily(t, func(t *testing.T, f family) {
		for _, client := range all {
			t.Run(client.name, func(t *testing.T) {
				ask(t, client, f, "load", vips.at(f, "8080"), pods)
				ask(t, client, f, "udp", vips.at(f, "8080"), pods)
			})
		}
	})
}

// ask sends requests enough for every pod to get some, and checks that each did and saw the client's own address.
func ask(t *testing.T, client client, f family, how, target string, pods []*lab.Pod) {
	t.Helper()
	const requests = "60" // one of three pods misses all of them with a chance of 10^-10
	r := askTimes(t, client, how, target, requests)
	for _, p := range pods {
		if r.Pods[p.Name] == 0 {
			t.Errorf("%s %s: %s never answered: %v", how, target, p.Name, r.Pods)
		}
	}
	for addr, n := range r.Clients {
		if addr != client.addr[f] && addr != client.self[f] {
			t.Errorf("%s %s: %d requests seemed to come from %s, want %s", how, target, n, addr, client.addr[f])
		}
	}
}

// askTimes sends so many requests, and fails the test for each that is not answered well.
func askTimes(t *testing.T, client client, how, target, requests string) report {
	t.Helper()
	// A request of several segments; a datagram with its answer must fit into one frame each.
	size := map[string]string{"load": "6000", "udp": "1300"}[how]
	out, err := client.from.Command(t.Context(), "traffic", how, "-n", requests, "-c", "10", "-bytes", size,
		"-timeout", "20s", target).Output()
	return mustReport(t, out, err)
}

// mustHaveRightChecksums lets each client ask by both families and protocols with checksums that are final when packets
// leave, and judges them on the wire: frame by frame, because large segments are off with them.
func mustHaveRightChecksums(t *testing.T, c *cluster.Cluster, askers []client, vips addrs, pods []*lab.Pod) {
	t.Helper()
	mustDoChecksumsInSoftware(t, c, pods...)
	wire := mustCapture(t, c, "ip or ip6")
	for _, client := range askers {
		for _, f := range families {
			askTimes(t, client, "load", vips.at(f, "8080"), "20")
			askTimes(t, client, "udp", vips.at(f, "8080"), "20")
		}
	}
	wire.judge(t, 1000)
}
