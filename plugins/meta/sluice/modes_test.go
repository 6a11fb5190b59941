// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/sluice-lb/sluice/internal/ether"
	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

// Each mode is told to the agent as the kernel has it, and survives CHECK. In passthru mode the pod has the master's MAC.
func TestEveryModeOfMacvlan(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	mac := mustLink(t, "eth1").Attrs().HardwareAddr // what made the link does not know it
	startAgent(t)
	for _, mode := range []string{"bridge", "private", "vepa", "passthru"} {
		t.Run(mode, func(t *testing.T) {
			pod := cnitest.NewPod(t, mode)
			n := newNetwork(t)
			n.macvlan = `, "mode": "` + mode + `"`
			mustAdd(t, pod, n)
			a := mustSpooled(t, pod)
			if a.Mode != mode {
				t.Errorf("spooled mode = %q", a.Mode)
			}
			shared := a.MAC == ether.MAC(mac)
			if shared != (mode == "passthru") {
				t.Errorf("the pod has MAC %s, the master %s", a.MAC, mac)
			}
			if err := pod.Check(t.Context(), n.String()); err != nil {
				t.Error(err)
			}
		})
	}
}

// The kernel attaches nothing beside a pod in passthru mode. That is macvlan's to say; the first pod stays served, and
// nothing of the second is left.
func TestPassthruIsAlone(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	agent := startAgent(t)
	first := cnitest.NewPod(t, "first")
	n := newNetwork(t)
	n.macvlan = `, "mode": "passthru"`
	mustAdd(t, first, n)
	for _, mode := range []string{"passthru", "bridge", "private"} {
		t.Run(mode, func(t *testing.T) {
			second := cnitest.NewPod(t, "second")
			n := newNetwork(t)
			n.macvlan = `, "mode": "` + mode + `"`
			if _, err := second.Add(t.Context(), n.String()); err == nil {
				t.Error("a second pod is attached")
			} else {
				t.Log(err)
			}
			if err := second.Del(t.Context(), n.String()); err != nil {
				t.Errorf("DEL after the refusal: %v", err)
			}
			wantNoRouting(t, second)
			if held := agent.holds(); len(held) != 1 {
				t.Errorf("the agent holds %v, want the first pod's attachment", held)
			}
		})
	}
	if err := first.Check(t.Context(), n.String()); err != nil {
		t.Error(err)
	}
}
