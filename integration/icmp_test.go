// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

// narrow is what a tunnel leaves of an MTU of 1500, and what the router says of it.
const narrow = 1300

// TestPathMTUDiscoveryThroughAVIP
//
//	pods' nodes --- router === 1300 octets === remote
//
// Every pod sends full frames that the router does not pass on. It tells the VIP, whose owner tells the pod's node, which
// tells the pod. Then the remote client's own packets become too large for the way to the VIP, too.
func TestPathMTUDiscoveryThroughAVIP(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{})
	pods, vips := mustWeb(t, c)
	remote := hostClient("remote client", c.Remote)
	eachFamily(t, func(t *testing.T, f family) {
		mustRun(t, c.Router, fmt.Sprintf("ip route add %s dev eth1 mtu lock %d", remote.addr[f], narrow))
		before := map[*lab.Node]int{}
		for _, n := range c.Nodes() {
			before[n] = mustCount(t, n, "icmp_error")
		}
		ask(t, remote, f, "load", vips.at(f, "8080"), pods) // 20 kB each way, compared octet by octet
		for _, p := range pods {
			if mustCount(t, p.Node, "icmp_error") == before[p.Node] {
				t.Errorf("%s translated no ICMP error for %s", p.Node.Name, p.Name)
			}
			route, err := p.Command(t.Context(), "ip", "route", "get", remote.addr[f], "from", addrsOf(p.Addr, p.Addr6)[f]).Output()
			if err != nil || !strings.Contains(string(route), fmt.Sprintf("mtu %d", narrow)) {
				t.Errorf("%s knows another path MTU: %s %v", p.Name, route, err)
			}
		}
		// Not before: a client that knows of the narrow way asks its servers for small segments (RFC 9293 section 3.7.1).
		mustRun(t, c.Router, fmt.Sprintf("ip route add %s dev eth0 mtu lock %d", vips[f], narrow))
		ask(t, remote, f, "load", vips.at(f, "8080"), pods)
	})
}

// Packets that pods answer with do not come far: the router says so to the VIP, and the pods hear it.
func TestTimeExceededReachesThePodBehindAVIP(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{})
	pods, vips := mustWeb(t, c)
	for _, p := range pods {
		mustRun(t, p, "sysctl -q net.ipv4.ip_default_ttl=1 net.ipv6.conf.net1.hop_limit=1")
	}
	counters := map[family][2]string{"IPv4": {"IcmpInTimeExcds", "IcmpInErrors"}, "IPv6": {"Icmp6InTimeExcds", "Icmp6InErrors"}}
	eachFamily(t, func(t *testing.T, f family) {
		for _, p := range pods {
			what := p.Name + " hears that its packets do not arrive"
			err := lab.Until(t.Context(), 20*time.Second, what, func(ctx context.Context) error {
				for _, how := range []string{"udp", "load"} {
					_ = c.Remote.Command(ctx, "traffic", how, "-n", "10", "-timeout", "100ms", vips.at(f, "8080")).Run() // no answer
				}
				heard, wrong := mustSNMP(t, p, counters[f][0]), mustSNMP(t, p, counters[f][1])
				if wrong != 0 {
					t.Errorf("%s could not read %d ICMP messages, or knows nothing of what they quote", p.Name, wrong)
				}
				if heard == 0 {
					return fmt.Errorf("%s is 0", counters[f][0])
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// mustSNMP gives a counter of the kernel in a pod's or host's network, by the name that nstat has for it.
func mustSNMP(t *testing.T, on runner, name string) int {
	t.Helper()
	out, err := on.Command(t.Context(), "nstat", "-asz", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(strings.TrimPrefix(string(out), "#kernel"))
	if len(fields) < 2 || fields[0] != name {
		t.Fatalf("nstat knows no %s: %q", name, out)
	}
	value, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// The owner answers clients on the wire, every node its own clients, and nobody else does.
func TestEchoToAVIPIsAnsweredOnce(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{Flood: true}) // so that every node could
	pods, vips := mustWeb(t, c)
	askers := clients(t, c, pods, vips)
	eachFamily(t, func(t *testing.T, f family) {
		for _, client := range askers {
			const requests = 10
			before := mustCountAll(t, c, "echo_reply")
			out, err := client.from.Command(t.Context(), "traffic", "echo", "-n", fmt.Sprint(requests), "-bytes", "1000",
				vips[f]).Output()
			mustReport(t, out, err)
			if replies := mustCountAll(t, c, "echo_reply") - before; replies != requests {
				t.Errorf("%s: the nodes answered %d requests with %d replies", client.name, requests, replies)
			}
		}
		wantBounded(t, c, vips[f], "echo_reply")
	})
}

// wantBounded floods a target, and checks that not more of it is answered than a node's CPUs may answer in the time that it
// took.
func wantBounded(t *testing.T, c *cluster.Cluster, target, answer string) {
	t.Helper()
	const perSecond = 1000 // and CPU; as many may have been saved up
	answers, limited := mustCountAll(t, c, answer), mustCountAll(t, c, "answer_limit")
	start := time.Now()
	mustRun(t, c.Client, "traffic flood -n 20000 "+target)
	answers, limited = mustCountAll(t, c, answer)-answers, mustCountAll(t, c, "answer_limit")-limited
	most := int(perSecond * (1 + time.Since(start).Seconds()) * float64(runtime.NumCPU()))
	t.Logf("%s: %d answers, %d withheld", target, answers, limited)
	if answers == 0 || answers > most || limited == 0 {
		t.Errorf("%s: %d answers and %d withheld, want 1 to %d, and some", target, answers, limited, most)
	}
}
