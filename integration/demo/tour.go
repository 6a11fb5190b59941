// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

// service is the one that netconf-examples/service.yaml describes.
const service = "default/multus-service"

// tour holds what the steps hand on to each other.
type tour struct {
	*cluster.Cluster

	out     *teller
	options options
	start   time.Time
	pods    []*lab.Pod
	vip     api.Service
}

func (t *tour) run(ctx context.Context) error {
	t.out.checked("%d agents ready, their programs on eth1 of each node", len(t.Nodes()))
	for _, step := range []func(context.Context) error{
		t.attachPods, t.showService, t.curlFromClient, t.curlFromEverywhere, t.killAgent, t.summarise,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (t *tour) attachPods(ctx context.Context) error {
	t.out.step("Three nginx pods, attached by the network's chain: macvlan, host-local, sluice")
	for i, object := range t.Pods {
		node := t.Nodes()[i%len(t.Nodes())]
		pod, err := node.AddPod(ctx, object)
		if err != nil {
			return err
		}
		if err := startNginx(ctx, pod); err != nil {
			return err
		}
		if err := pod.Check(ctx); err != nil {
			return err
		}
		t.pods = append(t.pods, pod)
		t.out.checked("%s on %s: net1 has %s, %s; CNI CHECK passes", pod.Name, node.Name, pod.Addr, pod.MAC)
	}
	return nil
}

func (t *tour) showService(ctx context.Context) error {
	t.out.step("The Service multus-service: a VIP on the pods' network, port 55003, in front of their port 80")
	var names []string
	for _, p := range t.pods {
		names = append(names, p.String())
	}
	ports, err := t.Served(ctx, service, 1, names...)
	if err != nil {
		return err
	}
	t.vip = ports[0]
	t.out.checked("VIP %s; %s answers ARP for it, every node balances", t.vip.VIP, t.vip.Owner)
	return t.showTable(ctx, t.Node(1))
}

func (t *tour) showTable(ctx context.Context, node *lab.Node) error {
	table, err := node.Command(ctx, "sluicectl", "get", "lb").Output()
	if err != nil {
		return err
	}
	t.out.command(node.Name, "sluicectl get lb", string(table))
	return nil
}

func (t *tour) url() string { return "http://" + cluster.Target(t.vip) }

// fetch gets the page once, on a connection of its own.
func (t *tour) fetch(ctx context.Context, from runner) (string, error) {
	page, err := from.Command(ctx, "curl", "-sS", "--fail", "--max-time", "5", t.url()).Output()
	return strings.TrimSpace(string(page)), err
}

// runner is a host or a pod.
type runner interface {
	Command(ctx context.Context, name string, args ...string) *lab.Cmd
}

// fetchFromAll fetches a fair number of times and until every pod has answered, and gives how often each has.
func (t *tour) fetchFromAll(ctx context.Context, from runner) (map[string]int, error) {
	const fair, limit = 30, 200 // with three pods, missing one in 200 draws has a chance of 10^-35
	answers := map[string]int{}
	for i := 1; i <= limit; i++ {
		page, err := t.fetch(ctx, from)
		if err != nil {
			return nil, err
		}
		answers[page]++
		if i >= fair && len(answers) == len(t.pods) {
			return answers, nil
		}
	}
	return nil, fmt.Errorf("%d requests to %s were answered by these pods only: %v", limit, t.url(), answers)
}

func (t *tour) curlFromClient(ctx context.Context) error {
	t.out.step("A client on the network asks the VIP; every request is a new connection")
	answers, err := t.fetchFromAll(ctx, t.Client)
	if err != nil {
		return err
	}
	var pages strings.Builder
	for _, page := range slices.Sorted(maps.Keys(answers)) {
		fmt.Fprintf(&pages, "%s    (%d times)\n", page, answers[page])
	}
	t.out.command("client", "curl "+t.url(), pages.String())
	if err := t.expectLogs(ctx, t.Client.Addr, answers); err != nil {
		return err
	}
	for _, p := range t.pods {
		t.out.command(p.Name, "tail -n 1 access.log", lastLine(p))
	}
	t.out.checked("all %d pods answered, and each saw the client's own address %s", len(t.pods), t.Client.Addr)
	return t.showTable(ctx, t.NodeByName(t.vip.Owner))
}

// expectLogs waits until every access log has a line for each answer, and checks that all are from this client.
func (t *tour) expectLogs(ctx context.Context, want netip.Addr, answers map[string]int) error {
	for _, p := range t.pods {
		clients, err := loggedClients(ctx, p, answers[page(p)])
		if err != nil {
			return err
		}
		for _, got := range clients {
			if got != want {
				return fmt.Errorf("access log of %s: a request came from %s, want %s", p, got, want)
			}
		}
	}
	return nil
}

func (t *tour) curlFromEverywhere(ctx context.Context) error {
	t.out.step("So do a client behind a router, a node itself, and a backend pod itself")
	node := t.Node(1)
	for _, from := range []struct {
		what string
		run  runner
		addr netip.Addr
		why  string
	}{
		{"remote", t.Remote, t.Remote.Addr, "the pods' default route is on eth0, replies still leave by net1"},
		{node.Name, node, node.Addr, "plain macvlan keeps a host from its own pods; Sluice does not"},
	} {
		if err := t.clearLogs(); err != nil {
			return err
		}
		answers, err := t.fetchFromAll(ctx, from.run)
		if err != nil {
			return fmt.Errorf("from %s: %w", from.what, err)
		}
		if err := t.expectLogs(ctx, from.addr, answers); err != nil {
			return fmt.Errorf("from %s: %w", from.what, err)
		}
		t.out.checked("%s: all pods answered and saw %s (%s)", from.what, from.addr, from.why)
	}
	pod := t.pods[0]
	if _, err := t.fetchFromAll(ctx, pod); err != nil {
		return fmt.Errorf("from pod %s: %w", pod, err)
	}
	t.out.checked("%s: all pods answered, itself among them", pod.Name)
	return nil
}

func (t *tour) summarise(context.Context) error {
	t.out.step("Summary")
	t.out.checked("one VIP, three nodes, no box and no pod in the middle; the client's address kept")
	t.out.checked("an agent killed and restarted under a connection that did not notice")
	t.out.say("   The tour took %.0f seconds.", time.Since(t.start).Seconds())
	return nil
}

func (t *tour) invite() {
	t.out.step("Yours until Ctrl-C. To try, in another terminal, as root:")
	bin := t.options.bin
	node := t.Node(1)
	for _, l := range [][2]string{ // tcpdump is the only one that a machine may lack
		{"ask the VIP as the client", t.Client.Enter() + " curl -sS " + t.url()},
		{"the same from behind the router", t.Remote.Enter() + " curl -sS " + t.url()},
		{"the same from a pod", t.pods[0].Enter() + " curl -sS " + t.url()},
		{"what " + node.Name + " balances", node.Enter() + " " + bin + "/sluicectl get lb -o wide"},
		{"watch the wire", t.Switch.Enter() + fmt.Sprintf(" tcpdump -nei br0 host %s", t.vip.VIP)},
		{"who asked " + t.pods[0].Name, "tail -f " + accessLog(t.pods[0])},
		{"kill the agent of " + node.Name, fmt.Sprintf("kill -9 %d", t.Agent(node).PID())},
		{"start it again", fmt.Sprintf("%s %s/sluiced agent --manifests %s --node-name %s", node.Enter(), bin,
			t.ManifestDir(), node.Name)},
		{"take a pod out of the Service", "rm " + t.ManifestDir() + "/pod-default-" + t.pods[2].Name + ".yaml"},
		{"change the Service", "vi " + t.ManifestDir() + "/service.yaml"},
	} {
		t.out.say("\n   %s\n     %s", l[0], t.out.paint(bold, l[1]))
	}
}

// podNamed gives the tour's pod of that name.
func (t *tour) podNamed(name string) (*lab.Pod, error) {
	for _, p := range t.pods {
		if p.Name == name {
			return p, nil
		}
	}
	return nil, errors.New("no pod is named " + name)
}
