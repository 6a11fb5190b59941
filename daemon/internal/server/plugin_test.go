// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/daemon/internal/attach"
	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

func TestMain(m *testing.M) { os.Exit(testkit.Isolate(m)) }

// node is the part of an agent that plugins meet: the real set behind the real server, on the real paths. The datapath
// behind Serve is a function.
type node struct {
	t       *testing.T
	set     *attach.Set
	changed chan struct{}
	stop    func()
}

// startNode starts an agent, and waits until it listens.
func startNode(t *testing.T, serve func(context.Context, api.Attachment) error) *node {
	t.Helper()
	n := &node{t: t, changed: make(chan struct{}, 1)}
	log := slog.New(slog.DiscardHandler)
	set, err := attach.Open(attach.Options{
		Dir: api.SpoolDir, Logger: log, Notify: n.notify, Interval: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.set = set
	opts, _ := newOptions()
	opts.Attachments, opts.Serve, opts.Logger = set, serve, log
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return set.Run(ctx) })
	group.Go(func() error { return New(opts).Run(ctx, api.Socket) })
	stopped := false
	n.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := group.Wait(); err != nil {
			t.Errorf("agent: %v", err)
		}
	}
	t.Cleanup(n.stop)
	mustListen(t, api.Socket)
	return n
}

// notify must not block. One change that is not seen yet is as good as many, because wait looks at all.
func (n *node) notify() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// wait waits until the agent holds these pods' attachments.
func (n *node) wait(want ...string) {
	n.t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		var got []string
		for _, a := range n.set.Snapshot() {
			got = append(got, a.Pod.Name)
		}
		diff := cmp.Diff(want, got, cmpopts.EquateEmpty())
		if diff == "" {
			return
		}
		select {
		case <-n.changed:
		case <-deadline:
			n.t.Fatalf("pods of the attachments (-want +got):\n%s", diff)
		}
	}
}

func served(context.Context, api.Attachment) error { return nil }

func chain(t *testing.T) string {
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "macvlan1", "plugins": [
		{"type": "macvlan", "master": "eth1", "ipam": {"type": "host-local", "dataDir": %q, "subnet": "192.168.20.0/24",
			"rangeEnd": "192.168.20.200"}},
		{"type": "sluice", "vips": ["192.168.20.240-192.168.20.250"], "required": true}]}`, t.TempDir())
}

func mustAdd(t *testing.T, pod *cnitest.Pod, chain string) {
	t.Helper()
	if _, err := pod.Add(t.Context(), chain); err != nil {
		t.Fatal(err)
	}
}

func TestPluginAndAgent(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	required := chain(t)
	pod := cnitest.NewPod(t, "a")
	n := startNode(t, served)

	mustAdd(t, pod, required)
	n.wait("a")
	if err := pod.Check(t.Context(), required); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	if err := pod.Del(t.Context(), required); err != nil {
		t.Fatal(err)
	}
	n.wait()
}

func TestAgentRestartKeepsAndCatchesUp(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	config := chain(t)
	optional := `{"cniVersion": "1.0.0", "name": "macvlan1", "plugins": [
		{"type": "macvlan", "master": "eth1"}, {"type": "sluice"}]}`
	kept, removed, killed, late := cnitest.NewPod(t, "kept"), cnitest.NewPod(t, "removed"), cnitest.NewPod(t, "killed"),
		cnitest.NewPod(t, "late")
	first := startNode(t, served)
	for _, pod := range []*cnitest.Pod{kept, removed, killed} {
		mustAdd(t, pod, config)
	}
	first.wait("kept", "killed", "removed")
	first.stop()

	// While no agent runs: a pod comes, one goes by DEL, and one goes without.
	mustAdd(t, late, optional)
	if err := removed.Del(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	killed.Remove(t)

	second := startNode(t, served)
	second.wait("kept", "late")
	late.Remove(t)
	second.wait("kept")
	if err := kept.Del(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	second.wait()
}

// TestHotPlugWithoutDel: an interface that is added to a running pod may never get a DEL. It goes with the namespace.
func TestHotPlugWithoutDel(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	config := chain(t)
	n := startNode(t, served)
	pod := cnitest.NewPod(t, "a")
	mustAdd(t, pod, config)
	n.wait("a")
	plugged := *pod
	plugged.IfName = "net2"
	mustAdd(t, &plugged, config)
	n.wait("a", "a")
	if err := pod.Del(t.Context(), config); err != nil { // all that the runtime knows of
		t.Fatal(err)
	}
	n.wait("a")
	if err := plugged.Check(t.Context(), config); err != nil {
		t.Errorf("CHECK of the interface that stays: %v", err)
	}
	pod.Remove(t)
	n.wait()
	if keys, err := api.SpoolKeys(api.SpoolDir); err != nil || len(keys) != 0 {
		t.Errorf("spooled after the pod's end: %v, %v", keys, err)
	}
}

func TestFailedDatapathFailsAddAndLeavesNothing(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	n := startNode(t, func(context.Context, api.Attachment) error {
		return errors.New("attach tcx to eth1: not supported")
	})
	pod := cnitest.NewPod(t, "a")
	_, err := pod.Add(t.Context(), chain(t))
	var e *types.Error
	if !errors.As(err, &e) || e.Code != types.ErrTryAgainLater {
		t.Fatalf("ADD = %v, want code 11", err)
	}
	want := "sluice: pod default/a, interface net1: the agent refuses: the datapath does not serve attachment " +
		"c-a/net1 yet: attach tcx to eth1: not supported: see the log of sluiced on this node"
	if e.Msg != want {
		t.Errorf("message = %q\nwant      %q", e.Msg, want)
	}
	n.wait() // the agent follows the spool, from which the plugin has removed the attachment
}
