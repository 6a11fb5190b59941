// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/lock"
)

func TestASecondProcessIsKeptOffThePins(t *testing.T) {
	n := newNode(t)
	d := n.open(AttachAuto)
	_, err := Open(Options{PinDir: n.pins, Logger: slog.New(slog.DiscardHandler)})
	var held *lock.HeldError
	if !errors.As(err, &held) {
		t.Fatalf("error %v", err)
	}
	expectHolds(t, "error", err.Error(), n.pins, fmt.Sprintf("process %d", os.Getpid()), "stop it first", "--bpffs")
	must(t, d.Close())
	must(t, n.open(AttachAuto).Close())
}

// Another instance has pins of its own, for example because it runs in a container with its own /run and bpffs.
func TestAnotherInstanceIsNeitherFoughtNorJoined(t *testing.T) {
	each(t, func(n *node, mode AttachMode) {
		m := n.addMaster("eth1")
		d := n.open(mode)
		s := state(m)
		n.apply(d, s)
		want := attachedPrograms(n.t, m.Index)

		second := &node{t: n.t, pins: n.pins + "2"}
		d2 := second.open(mode)
		// It sweeps what it thinks to have left behind: not ours.
		second.apply(d2, lb.State{Node: "a"})
		err := d2.Apply(n.t.Context(), s)
		if err == nil {
			n.t.Fatal("a second instance attached to the same master")
		}
		expectHolds(n.t, "error", err.Error(), "master eth1", "lb_", "another instance of Sluice", "stop its agent")
		issues := d2.Issues()
		if len(issues) != 2 || issues[0].Reason != "AnotherInstance" || issues[0].Object != "Interface eth1" {
			n.t.Errorf("issues of the second: %v", issues)
		}
		if d2.Serves(m.Index, s.Pods[0].MAC) {
			n.t.Error("the second instance says that it serves the pod")
		}
		if diff := cmp.Diff(want, attachedPrograms(n.t, m.Index)); diff != "" {
			n.t.Errorf("programs (-want +got):\n%s", diff)
		}
		n.apply(d, s)
		if issues := d.Issues(); len(issues) != 0 {
			n.t.Errorf("issues of the first: %v", issues)
		}

		// With the first gone and its programs taken off, the second takes over.
		n.apply(d, lb.State{Node: "a"})
		second.apply(d2, s)
		if diff := cmp.Diff(want, attachedPrograms(n.t, m.Index)); diff != "" {
			n.t.Errorf("programs of the second (-want +got):\n%s", diff)
		}
	})
}
