// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
	"github.com/sluice-lb/sluice/internal/testkit/foreign"
)

// mustOwner gives the node that clients on the wire come to.
func mustOwner(t *testing.T, c *cluster.Cluster) *lab.Node {
	t.Helper()
	ports, err := c.Ports(t.Context(), c.Node(1), "default/web")
	if err != nil || len(ports) == 0 {
		t.Fatalf("ports of the Service web: %v, %v", ports, err)
	}
	return c.NodeByName(ports[0].Owner)
}

// ingress is where frames enter a node's master.
func ingress(n *lab.Node) foreign.Place {
	return foreign.Place{Netns: fmt.Sprintf("/proc/%d/ns/net", n.PID()), IfName: "eth1"}
}

// hooks gives both hooks of all masters.
func hooks(c *cluster.Cluster) []foreign.Place {
	var all []foreign.Place
	for _, n := range c.Nodes() {
		in, out := ingress(n), ingress(n)
		out.Egress = true
		all = append(all, in, out)
	}
	return all
}

// before attaches a program where it runs before ours, as the neighbours of that way of attaching do. A number makes
// filters different from each other.
func before(p *foreign.Program, attach string, at foreign.Place, number uint32) (detach func()) {
	if attach == "tcx" {
		return p.First(at)
	}
	return p.Filter(at, 1, number)
}

// mustIssues waits until the issues that sluicectl prints on a node hold all texts, or are none if there are no texts.
func mustIssues(t *testing.T, n *lab.Node, texts ...string) {
	t.Helper()
	what := fmt.Sprintf("the issues of %s are %q", n.Name, texts)
	err := lab.Until(t.Context(), time.Minute, what, func(ctx context.Context) error {
		out, err := n.Command(ctx, "sluicectl", "get", "issues").Output()
		if err != nil {
			return err
		}
		if none := strings.Contains(string(out), "nothing wrong"); none != (len(texts) == 0) {
			return fmt.Errorf("they are %q", out)
		}
		for _, text := range texts {
			if !strings.Contains(string(out), text) {
				return fmt.Errorf("they are %q, without %q", out, text)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// mustAnswerAgain waits until the VIPs answer the external client.
func mustAnswerAgain(t *testing.T, c *cluster.Cluster, vips addrs) {
	t.Helper()
	for _, f := range families {
		err := lab.Until(t.Context(), time.Minute, "the VIP answers again", func(ctx context.Context) error {
			return c.Client.Command(ctx, "traffic", "load", "-n", "5", "-timeout", "500ms", vips.at(f, "8080")).Run()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	mustAnswer(t, c, vips)
}

// A program that ends the chain before ours comes to the owner's master while the agent runs, insists, and is there
// when an agent starts.
func TestTheVIPSurvivesProgramsThatEndTheChain(t *testing.T) {
	eachAttachment(t, func(t *testing.T, attach string) {
		c := mustCluster(t, attach, lab.Options{})
		_, vips := mustWeb(t, c)
		owner := mustOwner(t, c)
		at := ingress(owner)
		ending := foreign.Load(t, "ending", foreign.Pass, 0)
		detach := before(ending, attach, at, 1)
		mustAnswerAgain(t, c, vips)
		mustLeadAgain(t, c, owner, "ingress", 1)
		mustIssues(t, owner)
		if id := fmt.Sprintf("id %d", ending.ID()); !strings.Contains(c.Agent(owner).Output(), id) {
			t.Errorf("the agent's log does not hold %q", id)
		}

		detach()
		detach = before(ending, attach, at, 2)
		mustIssues(t, owner, "Interface eth1", "ProgramAhead", `"ending"`, fmt.Sprintf("id %d", ending.ID()),
			attach+" ingress", "have it return TC")
		detach()
		mustIssues(t, owner)
		mustAnswerAgain(t, c, vips)

		// Its traffic stays its own: what is not ours still reaches it behind us.
		if err := c.Agent(owner).Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		before(ending, attach, at, 3)
		mustStartAgent(t, c, owner)
		mustAnswer(t, c, vips)
		mustIssues(t, owner)
		direct := mustServeOnHost(t, owner)
		seen := ending.Seen()
		if err := c.Client.Command(t.Context(), "traffic", "udp", "-n", "5", direct).Run(); err != nil {
			t.Error(err)
		}
		if got := ending.Seen() - seen; got < 5 {
			t.Errorf("of 5 datagrams to the node itself the program behind ours saw %d", got)
		}
	})
}

// Connections do not notice programs that leave them alone, wherever those are, nor that we go to the head again and
// again.
func TestConnectionsDoNotNoticeProgramsBesideOurs(t *testing.T) {
	eachAttachment(t, func(t *testing.T, attach string) {
		mustTool(t, "tcpdump")
		c := mustCluster(t, attach, lab.Options{})
		pods, vips := mustWeb(t, c)
		wire := mustCapture(t, c, resets)
		var holders []holder
		for i, client := range clients(t, c, pods, vips) {
			f := families[i%len(families)] // one each: they keep the machine busy
			holders = append(holders, mustHold(t, client, vips.at(f, "8080")))
		}
		const questionLength = 14 + 20 + 8 + len("who?") // of traffic udp
		dropping := foreign.Load(t, "dropping", foreign.Drop, int32(questionLength))
		for round := range 3 {
			for _, at := range hooks(c) {
				before(foreign.Load(t, fmt.Sprintf("next%d", round), foreign.Next, 0), attach, at, uint32(round+1))
			}
			for _, n := range c.Nodes() {
				mustLeadAgain(t, c, n, "ingress", round+1)
				mustLeadAgain(t, c, n, "egress", round+1)
			}
		}
		for _, at := range hooks(c) {
			foreign.Load(t, "last", foreign.Next, 0).Last(at)
		}
		for _, n := range c.Nodes() {
			direct := mustServeOnHost(t, n)
			dropping.Filter(ingress(n), 2, 1) // the last of all, on tcx too
			if err := c.Client.Command(t.Context(), "traffic", "udp", "-n", "1", "-timeout", "1s", direct).Run(); err == nil {
				t.Errorf("%s answers a datagram that another program there drops", n.Name)
			}
			mustAnswer(t, c, vips)
		}
		for _, f := range families {
			ask(t, hostClient("client", c.Client), f, "udp", vips.at(f, "8080"), pods)
		}
		for _, h := range holders {
			h.release(t)
		}
		if seen := wire.read(t); seen != "" {
			t.Errorf("resets on the wire:\n%s", seen)
		}
	})
}

// mustServeOnHost starts a server on a node itself, and gives its address once it answers datagrams.
func mustServeOnHost(t *testing.T, n *lab.Node) string {
	t.Helper()
	if _, err := n.Start("traffic", "serve", "-name", n.Name); err != nil {
		t.Fatal(err)
	}
	err := lab.Until(t.Context(), 10*time.Second, n.Name+" answers", func(ctx context.Context) error {
		return n.Command(ctx, "traffic", "udp", "-n", "1", "-timeout", "1s", "127.0.0.1:80").Run()
	})
	if err != nil {
		t.Fatal(err)
	}
	return n.Addr.String() + ":80"
}

// mustLeadAgain waits until a node's agent has gone to the head for the nth time in a direction.
func mustLeadAgain(t *testing.T, c *cluster.Cluster, n *lab.Node, direction string, times int) {
	t.Helper()
	text := "went to the head of the chain again\" component=dataplane ifname=eth1 direction=" + direction
	err := lab.Until(t.Context(), 20*time.Second, n.Name+" is at the head again", func(context.Context) error {
		if got := strings.Count(c.Agent(n).Output(), text); got != times {
			return fmt.Errorf("it went there %d times, want %d", got, times)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestASecondAgentOfANodeIsRefused(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{})
	_, vips := mustWeb(t, c)
	n := mustOwner(t, c)
	args := []string{"agent", "--manifests", c.ManifestDir(), "--node-name", n.Name}
	out, err := n.Command(t.Context(), "sh", "-c", "pidof sluiced").Output()
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(out))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = n.Command(ctx, "sluiced", args...).Run()
	if err == nil {
		t.Fatal("a second agent runs, and ended without an error")
	}
	for _, want := range []string{
		"another agent runs on this node", "/run/sluice/agent.lock", "process " + pid, "/run/sluice/agent.sock",
		"/sys/fs/bpf/sluice", "stop it first",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not hold %q", err, want)
		}
	}
	mustAnswer(t, c, vips)

	// The same pins, but a /run of its own: a container that mounts only one of the two.
	alone := "mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\""
	err = n.Command(ctx, "unshare", append([]string{"-m", "sh", "-c", alone, "sluiced"}, args...)...).Run()
	if err == nil || !strings.Contains(err.Error(), "pin directory: /sys/fs/bpf/sluice is held by process "+pid) {
		t.Errorf("a second agent on the same pins: %v", err)
	}
	mustAnswer(t, c, vips)

	// Everything of its own, but the same masters.
	alone = "mount -t tmpfs tmpfs /run && mount -t bpf bpf /sys/fs/bpf && exec \"$0\" \"$@\""
	second, err := n.Start("unshare", append([]string{"-m", "sh", "-c", alone, "sluiced"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	err = lab.Until(t.Context(), 20*time.Second, "the second agent says what is wrong", func(context.Context) error {
		log := second.Output()
		if !strings.Contains(log, "another instance of Sluice") || !strings.Contains(log, "master eth1") {
			return errors.New(log)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	mustAnswer(t, c, vips)
	mustIssues(t, n)
	second.Kill()

	// What the first leaves behind when it is killed is in nobody's way.
	c.Agent(n).Kill()
	mustStartAgent(t, c, n)
	mustAnswer(t, c, vips)
}

func TestASecondControllerIsRefused(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := c.Control.Command(ctx, "sluiced", "controller", "--manifests", c.ManifestDir()).Run()
	if err == nil || !strings.Contains(err.Error(), "another controller writes to "+c.ManifestDir()) {
		t.Errorf("error %v", err)
	}
	pods, vips := mustWeb(t, c)
	mustServed(t, c, "default/web", pods...)
	mustAnswer(t, c, vips)
}
