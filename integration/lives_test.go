// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

// someClients gives one of each kind that is no backend: on the wire, behind the router, a node, and a pod.
func someClients(t *testing.T, c *cluster.Cluster) []client {
	t.Helper()
	n := c.Node(1)
	p := mustPod(t, n, "asker", "asker")
	return append(outside(c), hostClient("host of "+n.Name, n.Host),
		client{name: "pod on " + n.Name, from: p, addr: addrsOf(p.Addr, p.Addr6)})
}

// mustHoldAll lets clients hold connections by each family.
func mustHoldAll(t *testing.T, askers []client, vips addrs, flags ...string) []holder {
	t.Helper()
	var holders []holder
	for _, client := range askers {
		for _, f := range families {
			holders = append(holders, mustHold(t, client, vips.at(f, "8080"), flags...))
		}
	}
	return holders
}

// What makes a pod unfit for new connections says nothing of those that it has: they go on, whether it is on the owner's node
// or on another.
func TestConnectionsGoOnWithPodsThatTakeNoNewOnes(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{})
	pods, vips := mustWeb(t, c)
	askers := someClients(t, c)
	holders := mustHoldAll(t, askers, vips)
	if err := pods[0].SetReady(false); err != nil {
		t.Fatal(err)
	}
	if err := pods[1].SetLabels(map[string]string{"app": "retired"}); err != nil {
		t.Fatal(err)
	}
	mustServed(t, c, "default/web", pods[2])
	for _, client := range askers {
		for _, f := range families {
			for how, port := range map[string]string{"load": "8080", "udp": "8080"} {
				out, err := client.from.Command(t.Context(), "traffic", how, "-n", "30", vips.at(f, port)).Output()
				r := mustReport(t, out, err)
				if len(r.Pods) != 1 || r.Pods["web3"] == 0 {
					t.Errorf("%s by %s: new connections went to %v, want web3 alone", client.name, how, r.Pods)
				}
			}
		}
	}
	for _, h := range holders {
		h.release(t)
	}
}

// The pods of all nodes vanish one after the other: one of them is on the owner's node, and behind the last is nobody. Their
// connections learn that they are over; all others go on.
func TestConnectionsToPodsThatVanishAreReset(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{})
	pods, vips := mustWeb(t, c)
	askers := someClients(t, c)
	for i, victim := range pods {
		t.Run(victim.Name, func(t *testing.T) {
			holders := mustHoldAll(t, askers, vips, "-timeout", "1m")
			mustVanish(t, victim)
			mustServed(t, c, "default/web", pods[i+1:]...)
			for _, h := range holders {
				h.wantResets(t, victim.Name)
			}
		})
	}
}

// A pod's namespace is lost without a DEL, as when its sandbox dies, and the Pod is still there, not ready. Its node knows,
// and sends those elsewhere for whom it chooses the pods: where it owns the VIP, everybody on the wire.
func TestConnectionsToALostNamespaceAreResetByItsNode(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{})
	pods, vips := mustWeb(t, c)
	owners := map[string]bool{}
	ports, err := c.Ports(t.Context(), c.Node(1), "default/web")
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range ports {
		owners[port.Owner] = true // of either family's VIP
	}
	if len(owners) != 1 {
		t.Fatalf("VIPs belong to %v, want one node: choose others", owners)
	}
	holders := mustHoldAll(t, outside(c), vips, "-timeout", "1m")
	owner := slices.IndexFunc(pods, func(p *lab.Pod) bool { return owners[p.Node.Name] })
	victim, rest := pods[owner], slices.Delete(slices.Clone(pods), owner, owner+1)
	mustRun(t, victim, "ip link set net1 down")
	if err := errors.Join(victim.Vanish(), victim.SetReady(false)); err != nil {
		t.Fatal(err)
	}
	mustServed(t, c, "default/web", rest...)
	for _, h := range holders {
		h.wantResets(t, victim.Name)
	}
}

// mustVanish deletes a pod whose last words nobody hears: killed programs would close their connections properly.
func mustVanish(t *testing.T, p *lab.Pod) {
	t.Helper()
	mustRun(t, p, "ip link set net1 down")
	if err := p.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// wantResets ends the connections and checks that those to some pods were reset, and no others.
func (h holder) wantResets(t *testing.T, victims ...string) {
	t.Helper()
	o := h.end(t)
	r := mustRead(t, o.report, o.err)
	if len(r.Errors) == 0 {
		t.Errorf("%s: no connection broke: %v", h.name, r.Pods)
	}
	for _, e := range r.Errors {
		to, _, _ := strings.Cut(strings.TrimPrefix(e, "connection to "), ":")
		if !slices.Contains(victims, to) || !strings.HasSuffix(e, "connection reset by peer") {
			t.Errorf("%s: %s", h.name, e)
		}
	}
}

// Datagrams of one flow, which always come from one port, follow its pod: they stay with one that is not ready, and move
// when it vanishes.
func TestDatagramsMoveWhenTheirPodVanishes(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{})
	pods, vips := mustWeb(t, c)
	askers := someClients(t, c)
	asked := func(want func(before, now string) bool, before map[string]string) map[string]string {
		t.Helper()
		answers := map[string]string{}
		for _, client := range askers {
			for _, f := range families {
				// With those of all clients 32: one of three pods gets none with a chance of 10^-5.
				for port := range 4 {
					flow := fmt.Sprintf("%s, %s, port %d", client.name, f, 40000+port)
					out, err := client.from.Command(t.Context(), "traffic", "udp", "-n", "1", "-from", fmt.Sprint(40000+port),
						vips.at(f, "8080")).Output()
					for pod := range mustReport(t, out, err).Pods {
						answers[flow] = pod
					}
					if !want(before[flow], answers[flow]) {
						t.Errorf("%s: was with %s, is with %s", flow, before[flow], answers[flow])
					}
				}
			}
		}
		return answers
	}
	before := asked(func(_, now string) bool { return now != "" }, nil)
	for _, p := range pods {
		if !slices.Contains(values(before), p.Name) {
			t.Fatalf("%s got no flow: %v", p.Name, before)
		}
	}
	if err := pods[0].SetReady(false); err != nil {
		t.Fatal(err)
	}
	mustServed(t, c, "default/web", pods[1:]...)
	asked(func(before, now string) bool { return now == before }, before)
	mustVanish(t, pods[0])
	pods[0] = mustPod(t, c.Node(1), "web4", "web")
	mustServed(t, c, "default/web", pods...)
	asked(func(before, now string) bool { return now == before || before == "web1" && now != "" }, before)
}

func values(m map[string]string) []string {
	var all []string
	for _, v := range m {
		all = append(all, v)
	}
	return all
}
