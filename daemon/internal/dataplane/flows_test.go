// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

func TestVanishedPodTakesItsFlowsAlong(t *testing.T) {
	n := newNode(t)
	m := n.addMaster("eth1")
	d := n.open(AttachAuto)
	s := state(m)
	n.apply(d, s)
	gone, kept := netip.MustParseAddr("192.168.20.21"), netip.MustParseAddr("192.168.20.99")
	for i, pod := range []netip.Addr{gone, kept} {
		n.addFlow(d, m, pod, ether.MAC{2, 0, 0, 0, 0, byte(i + 1)})
	}
	s.Pods, s.Frontends[0].Backends = nil, s.Frontends[0].Backends[1:]
	n.apply(d, s)
	for _, flows := range []*ebpf.Map{d.maps.Flows, d.maps.HalfOpen, d.maps.Datagrams} {
		left := flowPods(t, flows)
		if diff := cmp.Diff([]string{kept.String(), kept.String()}, left); diff != "" {
			t.Errorf("%s: pods of the flows left (-want +got):\n%s", flows, diff)
		}
	}
}

// An agent may die after it has removed a pod's address, and before the pod's flows. The next one must not leave them to
// whoever gets the address.
func TestFlowsOfAPodThatADeadAgentRemovedAreForgotten(t *testing.T) {
	n := newNode(t)
	m := n.addMaster("eth1")
	d := n.open(AttachAuto)
	s := state(m)
	n.apply(d, s)
	here, gone, moved := s.Pods[0].Addrs[0], netip.MustParseAddr("192.168.20.99"), ether.MAC{2, 0, 0, 0, 0, 7}
	n.addFlow(d, m, here, s.Pods[0].MAC)
	n.addFlow(d, m, gone, ether.MAC{2, 0, 0, 0, 0, 9})
	n.addFlow(d, m, here, moved) // whose address another pod has
	must(t, d.Close())
	next := n.open(AttachAuto)
	n.apply(next, s)
	for _, flows := range []*ebpf.Map{next.maps.Flows, next.maps.HalfOpen, next.maps.Datagrams} {
		left := flowPods(t, flows)
		if diff := cmp.Diff([]string{here.String(), here.String()}, left); diff != "" {
			t.Errorf("%s: pods of the flows left (-want +got):\n%s", flows, diff)
		}
	}
}

// addFlow writes both directions of a flow of a client to the pod into every map of flows.
func (n *node) addFlow(d *Dataplane, m lb.Master, pod netip.Addr, mac ether.MAC) {
	n.t.Helper()
	client, vip := bpf.AddressFrom(netip.MustParseAddr("192.168.20.5")), bpf.AddressFrom(netip.MustParseAddr("192.168.20.240"))
	for _, flows := range []*ebpf.Map{d.maps.Flows, d.maps.HalfOpen, d.maps.Datagrams} {
		must(n.t, flows.Put(
			bpf.LbFlowKey{Src: client, Dst: vip, Ifindex: uint32(m.Index), Sport: 1, Dport: uint16(mac[5])},
			bpf.LbFlow{Src: client, Dst: bpf.AddressFrom(pod), Mac: mac}))
		must(n.t, flows.Put(
			bpf.LbFlowKey{Src: bpf.AddressFrom(pod), Dst: client, Ifindex: uint32(m.Index), Dport: 1},
			bpf.LbFlow{Src: vip, Dst: client, Flags: uint32(bpf.LbFlowFlagFLOW_REPLY)}))
	}
}

func flowPods(t testing.TB, flows *ebpf.Map) []string {
	t.Helper()
	var pods []string
	_, err := deleteFlows(flows, func(k bpf.LbFlowKey, f bpf.LbFlow) bool {
		if f.Flags&uint32(bpf.LbFlowFlagFLOW_REPLY) != 0 {
			pods = append(pods, k.Src.Addr().String())
		} else {
			pods = append(pods, f.Dst.Addr().String())
		}
		return false
	})
	must(t, err)
	slices.Sort(pods)
	return pods
}

// A client may come back by the port of a closed connection just while that one's entries are collected.
func TestFlowsThatBeginAnewWhileOldOnesAreDeletedStay(t *testing.T) {
	n := newNode(t)
	d := n.open(AttachAuto)
	const flows, closed = 100, uint32(bpf.LbFlowFlagFLOW_FIN | bpf.LbFlowFlagFLOW_PEER_FIN)
	for port := range uint16(flows) {
		must(t, d.maps.Flows.Put(bpf.LbFlowKey{Sport: port}, bpf.LbFlow{Flags: closed}))
	}
	reuse := func(port uint16) { must(t, d.maps.Flows.Put(bpf.LbFlowKey{Sport: port}, bpf.LbFlow{Backend: 7})) }
	looks := map[uint16]int{}
	var reused []uint16
	_, err := deleteFlows(d.maps.Flows, func(key bpf.LbFlowKey, f bpf.LbFlow) bool {
		looks[key.Sport]++
		switch {
		case len(reused) == 0: // the batch has been read, and nothing is deleted yet
			reused = append(reused, (key.Sport+1)%flows)
			reuse(reused[0])
		case len(reused) == 1 && looks[key.Sport] == 2: // the last look before it is deleted
			reused = append(reused, key.Sport)
			reuse(key.Sport)
		}
		return f.Flags == closed
	})
	must(t, err)
	for _, port := range reused {
		var f bpf.LbFlow
		if err := d.maps.Flows.Lookup(bpf.LbFlowKey{Sport: port}, &f); err != nil || f.Backend != 7 {
			t.Errorf("the new flow: %+v, %v; want it kept", f, err)
		}
	}
	if left := len(flowPods(t, d.maps.Flows)); len(reused) != 2 || left != 2 {
		t.Errorf("%d flows are left, want the %d new ones alone", left, len(reused))
	}
}

func TestFlowsAgeByTheirState(t *testing.T) {
	n := newNode(t)
	d := n.open(AttachAuto)
	now, err := flowTime()
	must(t, err)
	const reset, closed = bpf.LbFlowFlagFLOW_RESET, bpf.LbFlowFlagFLOW_FIN | bpf.LbFlowFlagFLOW_PEER_FIN
	cases := []struct {
		name  string
		flags bpf.LbFlowFlag
		idle  uint32
		kept  bool
	}{
		{"established, idle for an hour", 0, 3600, true},
		{"established, idle for a day", 0, 86400, false},
		{"one side has closed", bpf.LbFlowFlagFLOW_FIN, 3600, true},
		{"closed just now", closed, 1, true},
		{"closed two minutes ago", closed, 120, false},
		{"reset just now", reset, 1, true},
		{"reset a minute ago", reset, 60, false},
	}
	for i, c := range cases {
		must(t, d.maps.Flows.Put(bpf.LbFlowKey{Sport: uint16(i)}, bpf.LbFlow{Flags: uint32(c.flags), Seen: now - c.idle}))
	}
	// A packet that arrived after the clock was read must not look ages old.
	must(t, d.maps.Flows.Put(bpf.LbFlowKey{Sport: 99}, bpf.LbFlow{Seen: now + 1}))
	must(t, d.ageFlows())
	for i, c := range cases {
		var f bpf.LbFlow
		if kept := d.maps.Flows.Lookup(bpf.LbFlowKey{Sport: uint16(i)}, &f) == nil; kept != c.kept {
			t.Errorf("%s: kept %t, want %t", c.name, kept, c.kept)
		}
	}
	var f bpf.LbFlow
	if err := d.maps.Flows.Lookup(bpf.LbFlowKey{Sport: 99}, &f); err != nil {
		t.Errorf("a flow from after the clock was read: %v", err)
	}
}
