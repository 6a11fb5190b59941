// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

// recorded is what a watch showed: a line of testdata/events/*.jsonl, which the lane kube writes (UPDATE=1).
type recorded struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

// event is one recorded event, ready to be taken in by a source of any kind of role.
type event struct {
	stream string // whose order is kept: a watch keeps that of what it selects
	take   func(*Source)
}

// readEvents reads a recording, for a role.
func readEvents(t *testing.T, file string, role Role) []event {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var events []event
	for line := range bytes.Lines(text) {
		var r recorded
		var kind metav1.PartialObjectMetadata
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if err := json.Unmarshal(r.Object, &kind); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		take, err := taker(kind.Kind, r, role)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		stream := kind.Kind
		if kind.Labels[kube.LabelClaim] != "" {
			stream = "claim" // which has a watch of its own, beside the one of nodes' facts
		}
		events = append(events, event{stream, take})
	}
	return events
}

// taker gives what a source's handler does with an event.
func taker(kind string, r recorded, role Role) (func(*Source), error) {
	switch kind {
	case "Service":
		return take(r, role, &corev1.Service{}, func(s *Source) *table[*corev1.Service] { return s.services })
	case "Pod":
		return take(r, role, &corev1.Pod{}, func(s *Source) *table[*corev1.Pod] { return s.pods })
	case "Node":
		return take(r, role, &corev1.Node{}, func(s *Source) *table[*corev1.Node] { return s.nodes })
	case "NetworkAttachmentDefinition":
		return take(r, role, &nadv1.NetworkAttachmentDefinition{},
			func(s *Source) *table[*nadv1.NetworkAttachmentDefinition] { return s.networks })
	case "EndpointSlice":
		return take(r, role, &discoveryv1.EndpointSlice{}, func(s *Source) *table[*discoveryv1.EndpointSlice] { return s.slices })
	case "Lease":
		return take(r, role, &coordinationv1.Lease{}, func(s *Source) *table[*coordinationv1.Lease] { return s.leases })
	}
	return nil, fmt.Errorf("kind %q is not watched", kind)
}

func take[T kube.Object](r recorded, role Role, object T, of func(*Source) *table[T]) (func(*Source), error) {
	if err := json.Unmarshal(r.Object, object); err != nil {
		return nil, err
	}
	reduced, err := role.reduce(object)
	if err != nil {
		return nil, err
	}
	object = reduced.(T)
	switch r.Type {
	case "ADDED", "MODIFIED":
		return func(s *Source) { of(s).saw(object) }, nil
	case "DELETED":
		return func(s *Source) { of(s).sawEnd(object) }, nil
	}
	return nil, fmt.Errorf("event %q is not known", r.Type)
}

// interleave draws one of the orders in which watches may deliver: each keeps its own.
func interleave(draw *rand.Rand, events []event) []event {
	streams := map[string][]event{}
	var names []string
	for _, e := range events {
		if streams[e.stream] == nil {
			names = append(names, e.stream)
		}
		streams[e.stream] = append(streams[e.stream], e)
	}
	out := make([]event, 0, len(events))
	for len(names) > 0 {
		i := draw.IntN(len(names))
		name := names[i]
		// A watch that hangs delivers in bursts.
		for n := draw.IntN(4); n >= 0 && len(streams[name]) > 0; n-- {
			out = append(out, streams[name][0])
			streams[name] = streams[name][1:]
		}
		if len(streams[name]) == 0 {
			names = append(names[:i], names[i+1:]...)
		}
	}
	return out
}

// compileFor gives what a node makes of a source's objects. Its links are those that the recordings' nodes have.
func compileFor(s *Source, node string) lb.State {
	in := s.Objects().Snapshot(kube.Options{
		Classes:            []string{kube.Class, "loxilb.io/loxilb"},
		NetworkAnnotations: []string{kube.AnnotationNetworks, "loxilb.io/multus-nets"},
	})
	in.Node = node
	in.Links = []lb.Link{{
		Name: "eth1", Index: 3, MAC: ether.MAC{2, 0, 0x5e, 0x20, 0, 1}, Up: true,
		Addrs: []netip.Addr{netip.MustParseAddr("192.168.20.2")},
	}}
	return lb.Compile(in)
}

// TestAnyOrderOfEventsReachesTheSameState delivers recorded events in the orders that watches may choose, and looks at the
// objects in between, which joins tables at different moments.
func TestAnyOrderOfEventsReachesTheSameState(t *testing.T) {
	files, err := filepath.Glob("testdata/events/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("recordings %v, %v: want some", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			events := readEvents(t, file, Agent)
			var want lb.State
			for order := range 100 {
				draw := rand.New(rand.NewPCG(uint64(order), 7))
				s := newTables()
				delivered := events
				if order > 0 {
					delivered = interleave(draw, events)
				}
				for _, e := range delivered {
					e.take(s)
					if draw.IntN(10) == 0 {
						s.Objects()
					}
				}
				got := compileFor(s, "node1")
				if order == 0 {
					want = got
					if len(want.Frontends) == 0 {
						t.Fatal("the recording leads to no frontend, so it proves nothing")
					}
				}
				if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})); diff != "" {
					t.Fatalf("order %d: State of the order recorded (-), and of this one (+):\n%s", order, diff)
				}
			}
		})
	}
}

// TestAgentsMissNothingOfWhatTheyDrop compares what an agent makes of the objects that it keeps with what it would make of whole
// ones.
func TestAgentsMissNothingOfWhatTheyDrop(t *testing.T) {
	files, err := filepath.Glob("testdata/events/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("recordings %v, %v: want some", files, err)
	}
	for _, file := range files {
		whole, kept := newTables(), newTables()
		keptEvents := readEvents(t, file, Agent)
		for i, e := range readEvents(t, file, Controller) {
			e.take(whole)
			keptEvents[i].take(kept)
			want, got := compileFor(whole, "node1"), compileFor(kept, "node1")
			if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})); diff != "" {
				t.Fatalf("%s, event %d: State of whole objects (-), and of what an agent keeps (+):\n%s", file, i, diff)
			}
		}
	}
}
