// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

// TestDelAfterAnAddThatWasKilled kills ADD while it waits for the agent: routing and spool file are there.
func TestDelAfterAnAddThatWasKilled(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	pod := cnitest.NewPod(t, "web")
	n := newNetwork(t)
	mustAdd(t, pod, n)
	del := n.stdin(prevResult)
	if _, err := pod.Exec(t.Context(), "DEL", del, nil); err != nil { // of ours alone: the interface stays
		t.Fatal(err)
	}

	agent := startAgent(t)
	agent.set(func(a *agentDouble) { a.hang = true })
	ctx, kill := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := pod.Exec(ctx, "ADD", n.stdin(prevResult), nil)
		done <- err
	}()
	select {
	case <-agent.hanging:
	case err := <-done:
		t.Fatalf("ADD ended before it was killed: %v", err)
	}
	kill()
	if err := <-done; err == nil {
		t.Fatal("ADD succeeded, though it was killed")
	}
	agent.set(func(a *agentDouble) { a.hang = false })
	mustSpooled(t, pod)
	if len(routing(t, pod)) == 0 {
		t.Fatal("there is no routing, so the test proves nothing")
	}
	if _, err := pod.Exec(t.Context(), "DEL", del, nil); err != nil {
		t.Fatal(err)
	}
	wantNothingLeft(t, pod)
}

// TestDelAfterAnAddThatWasKilledWhileSpooling: what it was writing goes too, and other pods' files stay.
func TestDelAfterAnAddThatWasKilledWhileSpooling(t *testing.T) {
	testkit.Require(t, testkit.Root)
	pod := cnitest.NewPod(t, "web")
	mustSpool(t, map[api.Key]string{{ContainerID: "c-web2", IfName: "net1"}: "macvlan1"})
	temp := filepath.Join(api.SpoolDir, "."+filepath.Base(spoolPath(pod))+"-123")
	if err := os.WriteFile(temp, []byte(`{"containerID"`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pod.Exec(t.Context(), "DEL", newNetwork(t).stdin(prevResult), nil); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(api.SpoolDir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != "c-web2@net1.json" {
		t.Errorf("the spool holds %v, want the other pod's file alone", entries)
	}
}

// TestDelAfterAKilledAddWhoseInterfaceIsGone: a plugin behind us deletes the interface of the same name before our DEL, and
// no file tells the addresses. Only the rules know whose they were.
func TestDelAfterAKilledAddWhoseInterfaceIsGone(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	pod := cnitest.NewPod(t, "web")
	n := newNetwork(t)
	mustAdd(t, pod, n)
	second, other := mustAddSecond(t, pod)
	if err := os.Remove(spoolPath(pod)); err != nil {
		t.Fatal(err)
	}
	pod.Do(t, func() error { return netlink.LinkDel(mustLink(t, "net1")) })
	before := routing(t, pod)
	if len(before) != 4 || !strings.Contains(before[0], "192.168.20.20") {
		t.Fatalf("routing = %v, want net1's rule, and rule and routes of net2", before)
	}
	if _, err := pod.Exec(t.Context(), "DEL", n.stdin(prevResult), nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before[1:], routing(t, pod)); diff != "" {
		t.Errorf("routing (-want +got):\n%s", diff)
	}
	if err := second.Del(t.Context(), other.String()); err != nil {
		t.Fatal(err)
	}
	wantNothingLeft(t, pod)
}

// TestDelAfterAFailureFurtherInTheChain: libcni does not clean up after a plugin behind us; the runtime's DEL does.
func TestDelAfterAFailureFurtherInTheChain(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	agent := startAgent(t)
	pod := cnitest.NewPod(t, "web")
	n := newNetwork(t)
	failing := strings.TrimSuffix(n.String(), "]}") + `, {"type": "macvlan", "master": "absent"}]}`
	if _, err := pod.Add(t.Context(), failing); err == nil {
		t.Fatal("ADD succeeded, so the test proves nothing")
	}
	mustSpooled(t, pod)
	if err := pod.Del(t.Context(), failing); err != nil {
		t.Fatal(err)
	}
	wantNothingLeft(t, pod)
	if held := agent.holds(); len(held) != 0 {
		t.Errorf("the agent still holds %v", held)
	}
}
