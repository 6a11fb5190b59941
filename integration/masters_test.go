// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

// patient is for connections that a change of the master interrupts. TCP waits for as long again as the interruption was, and
// that depends on the machine.
var patient = []string{"-timeout", "10m"}

func mustRun(t *testing.T, on runner, command string) {
	t.Helper()
	words := strings.Fields(command)
	if err := on.Command(t.Context(), words[0], words[1:]...).Run(); err != nil {
		t.Fatal(err)
	}
}

// mustMasters waits until the agent of a node attaches to exactly these interfaces, given as NAME INDEX, and keeps no pins of
// others.
func mustMasters(t *testing.T, n *lab.Node, want ...string) {
	t.Helper()
	what := fmt.Sprintf("the masters of %s are %v", n.Name, want)
	err := lab.Until(t.Context(), 20*time.Second, what, func(ctx context.Context) error {
		out, err := n.Command(ctx, "curl", "-sS", "--unix-socket", "/run/sluice/agent.sock", "http://sluice/debug/state").Output()
		if err != nil {
			return err
		}
		var state struct {
			Masters []struct {
				Name  string
				Index int
			}
		}
		if err := json.Unmarshal(out, &state); err != nil {
			return err
		}
		got := []string{}
		for _, m := range state.Masters {
			got = append(got, fmt.Sprintf("%s %d", m.Name, m.Index))
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("they are %v", got)
		}
		files, err := filepath.Glob(n.Root() + "/sys/fs/bpf/sluice/lb_*")
		if err == nil && len(files) != 2*len(want) {
			err = fmt.Errorf("programs are pinned as %v", files)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func mustMaster(t *testing.T, n *lab.Node) int {
	t.Helper()
	card, err := n.Master()
	if err != nil {
		t.Fatal(err)
	}
	return card.Index
}

// mustReplace deletes a pod whose interface is gone, and adds another one of its name.
func mustReplace(t *testing.T, p *lab.Pod) *lab.Pod {
	t.Helper()
	if err := p.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	return mustPod(t, p.Node, p.Name, "web")
}

func podOn(pods []*lab.Pod, n *lab.Node) *lab.Pod {
	return pods[slices.IndexFunc(pods, func(p *lab.Pod) bool { return p.Node == n })]
}

// Connections of every client outlive what does not take the master away: its MTU, its MAC, 50 flaps, another name and back.
func TestConnectionsOutliveChangesOfTheMaster(t *testing.T) {
	eachAttachment(t, func(t *testing.T, attach string) {
		c := mustCluster(t, attach, lab.Options{})
		pods, vips := mustWeb(t, c)
		owner := mustOwner(t, c)
		other := c.Nodes()[slices.IndexFunc(c.Nodes(), func(n *lab.Node) bool { return n != owner })]
		var holders []holder
		for _, client := range clients(t, c, pods, vips) {
			// Who talks to a node's own address learns of a new MAC from that node's kernel, if it is told to say so.
			if strings.HasPrefix(client.name, "host of") {
				continue
			}
			for i, f := range families {
				holders = append(holders, mustHold(t, client, vips.at(f, "8080"), patient...))
				mustConnect(t, client, (i+1)*heldConnections)
			}
		}
		for i, n := range []*lab.Node{owner, other} {
			mustRun(t, n, "ip link set eth1 mtu 1300")
			mustAnswer(t, c, vips)
			mustRun(t, n, "ip link set eth1 mtu 1500")

			card, err := n.Master()
			if err != nil {
				t.Fatal(err)
			}
			mustRun(t, n, "ip link set eth1 address "+fmt.Sprintf("02:00:00:00:aa:%02x", i))
			mustLearn(t, c, vips)
			mustAnswerAgain(t, c, vips)
			mustIssues(t, n, "NodeMACMismatch")
			mustRun(t, n, "ip link set eth1 address "+card.HardwareAddr.String())
			mustLearn(t, c, vips)

			flaps := n.Command(t.Context(), "ip", "-batch", "-")
			flaps.Stdin = strings.NewReader(strings.Repeat("link set eth1 down\nlink set eth1 up\n", 50))
			if err := flaps.Run(); err != nil {
				t.Fatal(err)
			}
			mustAnswerAgain(t, c, vips)
			mustIssues(t, n)

			mustRun(t, n, "ip link set eth1 down")
			mustIssues(t, n, "Interface eth1", "MasterDown")
			mustRun(t, n, "ip link set eth1 name eth9")
			mustIssues(t, n, "NetworkAttachmentDefinition default/macvlan1", "MasterMissing")
			mustRun(t, n, "ip link set eth9 name eth1")
			mustRun(t, n, "ip link set eth1 up")
			mustIssues(t, n)
			mustAnswerAgain(t, c, vips)
		}
		for _, h := range holders {
			h.release(t)
		}
	})
}

// mustConnect waits until so many connections of a client are open.
func mustConnect(t *testing.T, c client, connections int) {
	t.Helper()
	err := lab.Until(t.Context(), time.Minute, c.name+" is connected", func(ctx context.Context) error {
		out, err := c.from.Command(ctx, "ss", "-Htn", "state", "established", "dport", "=", ":8080").Output()
		if n := strings.Count(string(out), "\n"); err == nil && n < connections {
			err = fmt.Errorf("%d of %d connections", n, connections)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// mustLearn waits until the external client, which asks nobody meanwhile, has been told of the owners' MACs.
func mustLearn(t *testing.T, c *cluster.Cluster, vips addrs) {
	t.Helper()
	ports, err := c.Ports(t.Context(), c.Node(1), "default/web")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ports {
		mustBeKnown(t, familyOf(p.VIP), c.Client, vips, []*lab.Node{c.NodeByName(p.Owner)})
	}
}

// The owner's master goes, and comes back under each number that it may: another one, and its own after a stranger had it.
// The pods above it are gone for good; the rest is served as soon as the master is back.
func TestAMasterMayGoAndComeBack(t *testing.T) {
	eachAttachment(t, func(t *testing.T, attach string) {
		c := mustCluster(t, attach, lab.Options{})
		pods, vips := mustWeb(t, c)
		owner := mustOwner(t, c)
		for _, agentIsDown := range []bool{false, true} {
			for _, sameNumber := range []bool{false, true} {
				lost := podOn(pods, owner)
				if agentIsDown {
					if err := c.Agent(owner).Stop(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				card, err := owner.Master()
				if err != nil {
					t.Fatal(err)
				}
				was := card.Index
				if err := owner.Unplug(); err != nil {
					t.Fatal(err)
				}
				if !agentIsDown {
					mustMasters(t, owner)
					mustIssues(t, owner, "NetworkAttachmentDefinition default/macvlan1", "Pod "+lost.String(), "MasterMissing")
				}
				mustRun(t, owner, fmt.Sprintf("ip link add stranger index %d type veth peer strangerp", was))
				if sameNumber {
					mustRun(t, owner, "ip link del stranger")
				} else {
					card.Index = 0
				}
				if err := owner.Plug(card); err != nil {
					t.Fatal(err)
				}
				if agentIsDown {
					mustStartAgent(t, c, owner)
				}
				is := mustMaster(t, owner)
				if sameNumber != (is == was) {
					t.Fatalf("eth1 is %d, and was %d", is, was)
				}
				mustMasters(t, owner, fmt.Sprintf("eth1 %d", is))
				mustIssues(t, owner, "Pod "+lost.String(), "MasterMissing")
				mustBackendState(t, c, owner, lost, "unattached")

				pods[slices.Index(pods, lost)] = mustReplace(t, lost)
				mustServed(t, c, "default/web", pods...)
				mustIssues(t, owner)
				mustAnswerAgain(t, c, vips)
				t.Logf("agent is down: %v, same number: %v", agentIsDown, sameNumber)
				askers := append(outside(c), hostClient("owner", owner.Host))
				askEach(t, append(askers, asClients([]*lab.Pod{podOn(pods, owner)}, vips)...), vips, pods)
				if !sameNumber {
					mustRun(t, owner, "ip link del stranger")
				}
			}
		}
	})
}

// A master that is lent to another network namespace takes its pods' frames along, and brings them back.
func TestAMasterMayBeLentToAnotherNamespace(t *testing.T) {
	eachAttachment(t, func(t *testing.T, attach string) {
		c := mustCluster(t, attach, lab.Options{})
		pods, vips := mustWeb(t, c)
		n := mustOwner(t, c)
		was := mustMaster(t, n)
		mustRun(t, n, "ip netns add elsewhere")
		mustRun(t, n, "ip link set eth1 netns elsewhere")
		mustMasters(t, n)
		mustIssues(t, n, "Pod "+podOn(pods, n).String(), "MasterMissing")
		mustRun(t, n, fmt.Sprintf("ip link add stranger index %d type veth peer strangerp", was))
		mustRun(t, n, "ip netns exec elsewhere ip link set eth1 netns 1")
		mustRun(t, n, fmt.Sprintf("ip addr add %s/24 dev eth1", n.Addr))
		mustRun(t, n, fmt.Sprintf("ip addr add %s/64 dev eth1 nodad", n.Addr6))
		mustRun(t, n, "ip link set eth1 up")
		is := mustMaster(t, n)
		if is == was {
			t.Fatal("eth1 has its old number though another has it")
		}
		mustMasters(t, n, fmt.Sprintf("eth1 %d", is))
		mustIssues(t, n)
		mustServed(t, c, "default/web", pods...)
		mustAnswerAgain(t, c, vips)
	})
}
