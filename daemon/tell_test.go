// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/daemon/internal/kube/apiserver"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

// toldEvents keeps events as lines.
type toldEvents []string

func (t *toldEvents) Warn(object, reason, message string) {
	*t = append(*t, "Warning "+object+" "+reason+": "+message)
}

func (t *toldEvents) Tell(object, reason, message string) {
	*t = append(*t, "Normal "+object+" "+reason+": "+message)
}

func TestServicesAreToldWhoAnnouncesThem(t *testing.T) {
	b := newBench()
	b.mustSyncSilently(t)
	b.mustSyncSilently(t)
	want := []string{"Normal Service default/web Announcing: announcing 192.168.20.240 from node a on eth1"}
	if diff := cmp.Diff(want, b.told); diff != "" {
		t.Fatalf("events (-want +got):\n%s", diff)
	}
	b.in.Nodes = []lb.Node{{Name: "b", Segments: []string{"eth1"}}} // another node's agent tells that
	b.mustSyncSilently(t)
	b.in.Nodes = []lb.Node{{Name: "a", Segments: []string{"eth1"}}}
	b.mustSyncSilently(t)
	if len(b.told) != 2 || b.told[1] != want[0] {
		t.Errorf("events = %q, want a second one since the VIP came back", b.told)
	}
}

func TestIssuesAreToldByWhoFindsThem(t *testing.T) {
	b := newBench()
	b.in.Nodes = nil // so that nothing is announced
	b.in.Issues = []lb.Issue{{Object: "NetworkAttachmentDefinition default/x", Reason: "InvalidNetwork", Message: "the controller tells"}}
	b.onNode = []lb.Issue{
		{Object: "Pod default/p", Reason: "R1", Message: "m"},
		{Object: "Interface eth1", Reason: "R2", Message: "m"},
		{Object: "Node a", Reason: "R3", Message: "m"},
		{Object: "Node b", Reason: "R4", Message: "another agent tells"},
		{Object: "Service default/web", Reason: "R5", Message: "the controller tells"},
		{Object: "NetworkAttachmentDefinition default/y", Reason: "R6", Message: "m"},
	}
	b.mustSyncSilently(t)
	b.mustSyncSilently(t)
	want := []string{
		"Warning NetworkAttachmentDefinition default/y R6: m", "Warning Node a R2: Interface eth1: m",
		"Warning Node a R3: m", "Warning Pod default/p R1: m",
	}
	got := []string{}
	for _, line := range b.told {
		if !strings.Contains(line, lb.ReasonNoCandidates) {
			got = append(got, line)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestFactsTellWhereTheNodeServes(t *testing.T) {
	b := newBench()
	b.refusal = errors.New("no")
	_ = b.sync(t.Context())
	if b.facts.MACs != nil {
		t.Errorf("facts = %v although nothing is programmed", b.facts)
	}
	b.refusal = nil
	b.mustSyncSilently(t)
	want := apiserver.Facts{MACs: map[string]ether.MAC{"eth1": {2, 0, 0, 0, 0, 1}}, Ready: []string{"eth1"}}
	if diff := cmp.Diff(want, b.facts); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	b.in.Links[0].Up = false
	b.mustSyncSilently(t)
	want.Ready = nil
	if diff := cmp.Diff(want, b.facts); diff != "" {
		t.Errorf("facts without carrier (-want +got):\n%s", diff)
	}
}
