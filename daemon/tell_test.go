// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/daemon/internal/kube/apiserver"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/daemon/internal/vip"
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
		{Object: "EndpointSlice default/web", Reason: "R5", Message: "the controller tells"},
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

// TestOneNodeTellsAServiceWhatNodesFind syncs three nodes, each with what it knows, and looks at who tells the Services what.
func TestOneNodeTellsAServiceWhatNodesFind(t *testing.T) {
	const network, segment = "default/macvlan1", "eth1"
	addr := netip.MustParseAddr("192.168.20.240")
	service := func(name string, local bool, port uint16) lb.Service {
		return lb.Service{
			Namespace: "default", Name: name, Local: local, VIPs: []lb.ServiceVIP{{Network: network, Addr: addr}},
			Ports: []lb.ServicePort{{Protocol: lb.TCP, Port: port}},
		}
	}
	endpoint := func(service, node string, ip string) lb.Slice {
		return lb.Slice{
			Service: "default/" + service, Network: network, Ports: []lb.ServicePort{{Protocol: lb.TCP, Port: 80}},
			Endpoints: []lb.Endpoint{{
				Addr: netip.MustParseAddr(ip), MAC: ether.MAC{2, 0, 0, 0, 1, ip[len(ip)-1]}, Node: node, Serving: true,
				Pod: api.Pod{Namespace: "default", Name: "pod-" + ip},
			}},
		}
	}
	owner := vip.Rank(addr, []string{"a", "b", "c"})[0]
	for name, tc := range map[string]struct {
		change func(in *lb.Snapshot) // of what a node knows
		reason string
		want   []string // nodes that tell
	}{
		"two have one port": {
			func(in *lb.Snapshot) { in.Services = append(in.Services, service("younger", false, 80)) },
			lb.ReasonFrontendTaken,
			[]string{owner},
		},
		"they share, and have pods on different nodes": {
			func(in *lb.Snapshot) {
				in.Services = []lb.Service{service("web", true, 80)}
				in.Services = append(in.Services, service("other", true, 81))
				in.Slices = []lb.Slice{endpoint("web", "a", "192.168.20.21"), endpoint("other", "b", "192.168.20.22")}
			},
			lb.ReasonNoCommonNode,
			[]string{owner, owner},
		},
		"an endpoint has the address": {
			func(in *lb.Snapshot) { in.Slices = []lb.Slice{endpoint("web", "c", addr.String())} },
			lb.ReasonAddressInUse,
			[]string{owner},
		},
		"one node has the address": {
			func(in *lb.Snapshot) {
				if in.Node != owner && in.Node != "a" {
					in.Links[0].Addrs = []netip.Addr{addr}
				}
			},
			lb.ReasonAddressInUse, slices.DeleteFunc([]string{"b", "c"}, func(node string) bool { return node == owner }),
		},
		"nobody knows the network": {
			func(in *lb.Snapshot) { in.Networks = nil },
			lb.ReasonUnknownNetwork,
			[]string{"a"},
		},
		"no node is a candidate": {
			func(in *lb.Snapshot) {
				in.Services = append(in.Services, service("younger", false, 80))
				in.Nodes = []lb.Node{{Name: "c"}, {Name: "b"}, {Name: "a"}}
			},
			lb.ReasonFrontendTaken,
			[]string{"a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var tell []string
			for _, node := range []string{"a", "b", "c"} {
				b := newBench()
				b.in.Node, b.in.Nodes = node, nil
				for _, candidate := range []string{"c", "b", "a"} {
					b.in.Nodes = append(b.in.Nodes, lb.Node{Name: candidate, Segments: []string{segment}})
				}
				tc.change(&b.in)
				b.mustSyncSilently(t)
				b.mustSyncSilently(t)
				for _, line := range b.told {
					if strings.HasPrefix(line, "Warning Service ") {
						tell = append(tell, node)
						if !strings.Contains(line, " "+tc.reason+": ") {
							t.Errorf("node %s tells %q, want reason %s", node, line, tc.reason)
						}
					}
				}
			}
			if diff := cmp.Diff(tc.want, tell); diff != "" {
				t.Errorf("nodes that tell (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheNextOwnerTellsAnIssueThatLasts(t *testing.T) {
	b := newBench()
	b.in.Networks = nil
	b.in.Nodes = nil // nobody knows who there is
	count := func() int {
		b.mustSyncSilently(t)
		return len(b.told)
	}
	if n := count(); n != 0 {
		t.Fatalf("told %q, although another node may do", b.told)
	}
	b.in.Nodes = []lb.Node{{Name: "a"}, {Name: "b"}}
	if n := count(); n != 1 {
		t.Fatalf("told %q, want one event", b.told)
	}
	b.in.Nodes = []lb.Node{{Name: "a"}, {Name: "_"}}
	_ = count()
	b.in.Nodes = []lb.Node{{Name: "a"}}
	if n := count(); n != 1 {
		t.Fatalf("told %q again, although the issue did not go meanwhile", b.told)
	}
	b.in.Services = nil
	_ = count()
	b.in.Services = newBench().in.Services
	if n := count(); n != 2 {
		t.Fatalf("told %q, want another event since the issue came back", b.told)
	}
}

func addrs(texts ...string) (out []netip.Addr) {
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
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
	want := apiserver.Facts{
		MACs: map[string]ether.MAC{"eth1": {2, 0, 0, 0, 0, 1}}, Addrs: map[string]netip.Addr{}, Ready: []string{"eth1"},
	}
	equateAddrs := cmpopts.EquateComparable(netip.Addr{})
	if diff := cmp.Diff(want, b.facts, equateAddrs); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	b.in.Links[0].Addrs = addrs("192.168.20.2", "fd00:20::2", "fe80::2")
	b.mustSyncSilently(t)
	want.Addrs["eth1"] = netip.MustParseAddr("fe80::2")
	if diff := cmp.Diff(want, b.facts, equateAddrs); diff != "" {
		t.Errorf("facts of a master with addresses (-want +got):\n%s", diff)
	}
	b.in.Links[0].Addrs, b.in.Links[0].Up = addrs("192.168.20.2"), false
	b.mustSyncSilently(t)
	want.Addrs["eth1"], want.Ready = netip.MustParseAddr("192.168.20.2"), nil
	if diff := cmp.Diff(want, b.facts, equateAddrs); diff != "" {
		t.Errorf("facts without carrier (-want +got):\n%s", diff)
	}
}
