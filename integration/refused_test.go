// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

// refusing are a Service without pods, and one whose pods do not listen: nodes refuse for the first, pods for the other.
const refusing = `
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: default, annotations: {sluice-lb.io/networks: macvlan1}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  loadBalancerClass: sluice-lb.io/sluice
  selector: {app: nobody}
  ports:
  - {name: tcp, protocol: TCP, port: 8080, targetPort: 80}
  - {name: udp, protocol: UDP, port: 8080, targetPort: 80}
---
apiVersion: v1
kind: Service
metadata: {name: closed, namespace: default, annotations: {sluice-lb.io/networks: macvlan1}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  loadBalancerClass: sluice-lb.io/sluice
  selector: {app: web}
  ports:
  - {name: tcp, protocol: TCP, port: 8080, targetPort: 9}
  - {name: udp, protocol: UDP, port: 8080, targetPort: 9}
`

// TestEveryClientIsRefusedAtOnce
//
//	client ---+--- node1 (host, asker, web1)           each asks two VIPs that nobody answers, by TCP and UDP, first
//	remote -- router    node2 (host, asker, web2)      with checksums left to the hardware, then with final ones on the
//	          +--- node3 (host, asker, web3)           wire
func TestEveryClientIsRefusedAtOnce(t *testing.T) {
	for _, tool := range []string{"tcpdump", "ethtool"} {
		mustTool(t, tool)
	}
	c := mustCluster(t, "auto", lab.Options{})
	webs, vips := mustWeb(t, c)
	mustApply(t, c, "refusing.yaml", refusing)
	targets := map[string]addrs{
		"empty":  mustServed(t, c, "default/empty"),
		"closed": mustServed(t, c, "default/closed", webs...),
	}
	askers := clients(t, c, webs, vips)
	for _, p := range webs { // by default a pod tells a client six times, and then once a second
		mustRun(t, p, "sysctl -q net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")
	}
	beRefused(t, askers, targets)
	mustDoChecksumsInSoftware(t, c, webs...)
	wire := mustCapture(t, c, "ip or ip6")
	beRefused(t, askers, targets)
	const least = 100
	wire.mustHave(t, least)
	fromVIPs(t, wire.judge(t, least), targets)
}

// fromVIPs checks that nothing but VIPs refuses: the client's kernel would take a pod's word for a stranger's.
func fromVIPs(t *testing.T, text string, targets map[string]addrs) {
	t.Helper()
	var vips []string
	for _, of := range targets {
		vips = append(vips, of["IPv4"], of["IPv6"])
	}
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		before, after, _ := strings.Cut(line, " > ")
		from, isReset := before[strings.LastIndexAny(before, " \t")+1:], strings.Contains(after, "Flags [R")
		if isReset {
			from = from[:max(strings.LastIndexByte(from, '.'), 0)] // the port
		}
		isUnreachable := strings.Contains(after, "unreachable") && strings.Contains(after, " port")
		if !isReset && !isUnreachable {
			continue
		}
		seen[fmt.Sprint(from, isReset)] = true
		if !slices.Contains(vips, from) {
			t.Errorf("%q refuses: %s", from, strings.TrimSpace(line))
		}
	}
	for _, vip := range vips {
		if !seen[fmt.Sprint(vip, true)] || !seen[fmt.Sprint(vip, false)] {
			t.Errorf("%s does not refuse by TCP and UDP: %v", vip, seen)
		}
	}
}

// beRefused lets each client ask for what nobody serves. A client that got no word would wait for a timeout.
func beRefused(t *testing.T, askers []client, targets map[string]addrs) {
	t.Helper()
	for _, client := range askers {
		for name, vips := range targets {
			for _, f := range families {
				for _, how := range []string{"load", "udp"} {
					out, err := client.from.Command(t.Context(), "traffic", how, "-n", "3", vips.at(f, "8080")).Output()
					r := mustRead(t, out, err)
					for _, e := range r.Errors {
						if !strings.Contains(e, "connection refused") {
							t.Errorf("%s asks %s by %s over %s: %s, want a refusal", client.name, name, how, f, e)
						}
					}
					if len(r.Errors) != 3 {
						t.Errorf("%s asks %s by %s over %s: %d refusals and %v, want 3 refusals",
							client.name, name, how, f, len(r.Errors), r.Pods)
					}
				}
			}
		}
	}
}

// Who asks faster than a CPU may answer gets no more than that. The first pod ends it.
func TestRefusalsAreBoundedAndEndWithTheFirstPod(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{})
	vips := mustServed(t, c, "default/web")
	for _, f := range families {
		wantBounded(t, c, vips.at(f, "8080"), "refused")
	}
	mustServed(t, c, "default/web", mustPod(t, c.Node(1), "web1", "web"))
	mustAnswer(t, c, vips)
}

func TestServiceWithoutBackendsIsSilentOnDemand(t *testing.T) {
	c := mustBareCluster(t, cluster.Options{
		AgentFlags: []string{"--no-backends=drop"},
		Manifests:  []string{exampleNAD, "../netconf-examples/node-facts.yaml"},
	})
	mustApply(t, c, "web.yaml", webService)
	vips := mustServed(t, c, "default/web")
	askers := someClients(t, c)
	eachFamily(t, func(t *testing.T, f family) {
		for _, client := range askers {
			for _, how := range []string{"load", "udp"} {
				wantDropped(t, c, client, how, vips.at(f, "8080"), "no_backend")
			}
		}
	})
	if n := mustCountAll(t, c, "refused"); n != 0 {
		t.Errorf("%d requests were refused", n)
	}
}

// wantDropped checks that a client gets no answer, and that the nodes count why.
func wantDropped(t *testing.T, c *cluster.Cluster, client client, how, target, reason string) {
	t.Helper()
	before := mustCountAll(t, c, reason)
	wantSilence(t, client, how, target)
	if mustCountAll(t, c, reason) == before {
		t.Errorf("%s %s %s: nobody counts %s", client.name, how, target, reason)
	}
}

// wantSilence checks that a client gets no answer, and no error either.
func wantSilence(t *testing.T, client client, how, target string) {
	t.Helper()
	out, err := client.from.Command(t.Context(), "traffic", how, "-n", "3", "-timeout", "300ms", target).Output()
	r := mustRead(t, out, err)
	if len(r.Errors) != 3 {
		t.Errorf("%s %s %s: answered by %v", client.name, how, target, r.Pods)
	}
	for _, e := range r.Errors {
		if !strings.HasSuffix(e, "i/o timeout") {
			t.Errorf("%s %s %s: %s", client.name, how, target, e)
		}
	}
}
