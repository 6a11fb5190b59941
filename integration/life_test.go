// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

// holders are clients that keep connections busy in the background.
type holder struct {
	client

	cmd *lab.Cmd
	out chan outcome
}

type outcome struct {
	report []byte
	err    error
}

const heldConnections = 20

// mustHold begins, and returns when each connection was answered once; flags are those of traffic hold.
func mustHold(t *testing.T, c client, target string, flags ...string) holder {
	t.Helper()
	h := holder{client: c, out: make(chan outcome, 1)}
	args := append([]string{"hold", "-c", fmt.Sprint(heldConnections)}, flags...)
	h.cmd = c.from.Command(context.Background(), "traffic", append(args, target)...)
	held := &awaited{text: "held\n", seen: make(chan struct{})}
	h.cmd.Stderr = held
	started := make(chan error, 1)
	go func() {
		report, err := h.cmd.OutputAfter(started)
		h.out <- outcome{report, err}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	select {
	case <-held.seen:
	case o := <-h.out:
		h.out <- o // release tells what was wrong
	}
	return h
}

// awaited closes seen when a text has been written to it.
type awaited struct {
	text    string
	seen    chan struct{}
	written []byte
	done    bool
}

func (a *awaited) Write(b []byte) (int, error) {
	a.written = append(a.written, b...)
	if !a.done && bytes.Contains(a.written, []byte(a.text)) {
		a.done = true
		close(a.seen)
	}
	return len(b), nil
}

// end ends the connections, each after the answer that it waits for.
func (h holder) end(t *testing.T) outcome {
	t.Helper()
	if err := h.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("%s: %v", h.name, err)
	}
	return <-h.out
}

// release ends the connections and checks that each lived from beginning to end.
func (h holder) release(t *testing.T) {
	t.Helper()
	o := h.end(t)
	r := mustReport(t, o.report, o.err)
	if len(r.Pods) < 2 {
		t.Errorf("%s: connections went to %v only", h.name, r.Pods)
	}
	t.Logf("%s: %v, longest gap %v", h.name, r.Pods, r.LongestGap)
}

func TestAgentsMayStopCrashAndReturnUnderLoad(t *testing.T) {
	eachAttachment(t, func(t *testing.T, attach string) {
		mustTool(t, "tcpdump")
		c := mustCluster(t, attach, lab.Options{})
		pods, vips := mustWeb(t, c)
		wire := mustCapture(t, c, resets)
		var holders []holder
		for _, client := range clients(t, c, pods, vips) {
			for _, f := range families {
				holders = append(holders, mustHold(t, client, vips.at(f, "8080")))
			}
		}
		for _, n := range c.Nodes() {
			if err := c.Agent(n).Stop(t.Context()); err != nil {
				t.Error(err)
			}
			mustAnswer(t, c, vips)
			mustStartAgent(t, c, n)
			c.Agent(n).Kill()
			mustAnswer(t, c, vips)
			mustStartAgent(t, c, n)
			mustAnswer(t, c, vips)
		}
		for _, h := range holders {
			h.release(t)
		}
		if seen := wire.read(t); seen != "" {
			t.Errorf("resets on the wire:\n%s", seen)
		}
	})
}

// mustAnswer checks that new connections of the external client work.
func mustAnswer(t *testing.T, c *cluster.Cluster, vips addrs) {
	t.Helper()
	for _, f := range families {
		out, err := c.Client.Command(t.Context(), "traffic", "load", "-n", "50", vips.at(f, "8080")).Output()
		mustReport(t, out, err)
	}
}

func mustStartAgent(t *testing.T, c *cluster.Cluster, n *lab.Node) {
	t.Helper()
	if err := c.StartAgent(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

func TestPodsAndVIPsComeAndGo(t *testing.T) {
	eachAttachment(t, func(t *testing.T, attach string) {
		c := mustCluster(t, attach, lab.Options{})
		pods, vips := mustWeb(t, c)
		if err := pods[0].Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustServed(t, c, "default/web", pods[1:]...)
		mustAnswer(t, c, vips)
		if err := pods[1].SetReady(false); err != nil {
			t.Fatal(err)
		}
		mustServed(t, c, "default/web", pods[2])
		mustAnswer(t, c, vips)
		pods[0] = mustPod(t, c.Node(1), "web1", "web")
		mustServed(t, c, "default/web", pods[0], pods[2])
		mustAnswer(t, c, vips)

		if err := c.Remove("web.yaml"); err != nil {
			t.Fatal(err)
		}
		if err := c.Gone(t.Context(), "default/web"); err != nil {
			t.Fatal(err)
		}
		mustFlush(t, c.Client)
		for _, f := range families {
			target := vips.at(f, "8080")
			if c.Client.Command(t.Context(), "traffic", "load", "-n", "1", "-timeout", "2s", target).Run() == nil {
				t.Errorf("%s of a removed Service still answers", target)
			}
		}
	})
}

func TestPodAttachedWhileTheAgentIsDownIsServedWhenItReturns(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{})
	pods, vips := mustWeb(t, c)
	n := c.Node(1)
	if err := c.Agent(n).Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	late := mustPod(t, n, "late", "web")
	mustStartAgent(t, c, n)
	mustServed(t, c, "default/web", append(pods, late)...)
	mustAnswer(t, c, vips)
}

func TestVanishedNamespaceIsForgotten(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{})
	n := c.Node(1)
	whileUp, whileDown := mustPod(t, n, "web1", "web"), mustPod(t, n, "web2", "web")
	mustServed(t, c, "default/web", whileUp, whileDown)

	if err := whileUp.Vanish(); err != nil {
		t.Fatal(err)
	}
	mustBackendState(t, c, n, whileUp, "unattached")
	if err := c.Agent(n).Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := whileDown.Vanish(); err != nil {
		t.Fatal(err)
	}
	mustStartAgent(t, c, n)
	mustBackendState(t, c, n, whileDown, "unattached")
}

func mustBackendState(t *testing.T, c *cluster.Cluster, n *lab.Node, p *lab.Pod, want string) {
	t.Helper()
	what := p.String() + " is " + want + " on " + n.Name
	err := lab.Until(t.Context(), 20*time.Second, what, func(ctx context.Context) error {
		ports, err := c.Ports(ctx, n, "default/web")
		if err != nil {
			return err
		}
		for _, port := range ports {
			for _, b := range port.Backends {
				if b.Pod == p.String() && b.State == want {
					return nil
				}
			}
		}
		return errors.New("its state is another")
	})
	if err != nil {
		t.Fatal(err)
	}
}

// While a transfer runs over each family, every agent is killed and started again.
func TestDownloadsOutliveTheAgents(t *testing.T) {
	mustTool(t, "iperf3")
	c := mustCluster(t, "auto", lab.Options{})
	const amount = 100_000_000
	downloads := map[family]chan outcome{}
	for i, f := range families {
		name := fmt.Sprintf("bulk%d", i) // iperf3 serves one client at a time
		mustApply(t, c, name+".yaml", strings.ReplaceAll(bulkService, "bulk", name))
		p := mustPod(t, c.Node(i+1), name, name)
		mustListen(t, p)
		vips := mustServed(t, c, "default/"+name, p)
		// A tenth of a second for each of the nodes' agents is much: this takes some seconds.
		cmd := c.Client.Command(t.Context(), "iperf3", "-c", vips[f], "-R", "-J", "-n", fmt.Sprint(amount), "-b", "100M")
		started, done := make(chan error, 1), make(chan outcome, 1)
		go func() {
			report, err := cmd.OutputAfter(started)
			done <- outcome{report, err}
		}()
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		downloads[f] = done
	}
	for _, n := range c.Nodes() {
		c.Agent(n).Kill()
		mustStartAgent(t, c, n)
	}
	for f, done := range downloads {
		select {
		case o := <-done:
			t.Fatalf("%s: the download ended before the agents were back: %v %s", f, o.err, o.report)
		default:
		}
		o := <-done
		var result struct {
			End struct {
				Received struct {
					Bytes int `json:"bytes"`
				} `json:"sum_received"`
			} `json:"end"`
		}
		if err := json.Unmarshal(o.report, &result); err != nil || o.err != nil || result.End.Received.Bytes < amount {
			t.Errorf("%s: %d of %d bytes arrived: %v, %v", f, result.End.Received.Bytes, amount, o.err, err)
		}
	}
}
