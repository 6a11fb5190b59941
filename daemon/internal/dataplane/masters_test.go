// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

// programIDs gives the programs of ours that packets meet on a master.
func programIDs(t testing.TB, d *Dataplane, m lb.Master) []ebpf.ProgramID {
	t.Helper()
	var ids []ebpf.ProgramID
	for _, dir := range directions {
		programs, err := d.programs(place{ifindex: m.Index, dir: dir})
		must(t, err)
		for _, p := range programs {
			if p.ours {
				ids = append(ids, p.id)
			}
		}
	}
	return ids
}

// programMAC gives the master's MAC that the programs in force know, from their constants.
func programMAC(t testing.TB, d *Dataplane, m lb.Master) ether.MAC {
	t.Helper()
	var macs []ether.MAC
	for _, id := range programIDs(t, d, m) {
		prog, err := ebpf.NewProgramFromID(id)
		must(t, err)
		info, err := prog.Info()
		must(t, err)
		must(t, prog.Close())
		ids, _ := info.MapIDs()
		for _, id := range ids {
			if strings.HasSuffix(mapName(id), ".rodata") {
				rodata, err := ebpf.NewMapFromID(id)
				must(t, err)
				value, err := rodata.LookupBytes(uint32(0))
				must(t, err)
				must(t, rodata.Close())
				offset := d.spec.Variables[bpf.LbVarMasterMac].Offset
				mac, err := ether.FromSlice(value[offset : offset+6])
				must(t, err)
				macs = append(macs, mac)
			}
		}
	}
	if len(macs) != 2 || macs[0] != macs[1] {
		t.Fatalf("the programs on %s know %v", m.Name, macs)
	}
	return macs[0]
}

func (n *node) remove(m lb.Master) {
	n.t.Helper()
	must(n.t, netlink.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: m.Index, Name: m.Name}}))
}

// replace puts another interface in a master's place, with its number and MAC.
func (n *node) replace(m lb.Master, name string) lb.Master {
	n.t.Helper()
	n.remove(m)
	must(n.t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, Index: m.Index, HardwareAddr: m.MAC[:]}, PeerName: name + "p",
	}))
	m.Name = name
	return m
}

// entries counts the flows and choices on a master in each map that remembers any.
func entries(t testing.TB, d *Dataplane, m lb.Master) string {
	t.Helper()
	var counts []string
	for _, flows := range []*ebpf.Map{d.maps.Flows, d.maps.HalfOpen, d.maps.Datagrams} {
		n := 0
		_, err := deleteFlows(flows, func(k bpf.LbFlowKey, _ bpf.LbFlow) bool {
			if k.Ifindex == uint32(m.Index) {
				n++
			}
			return false
		})
		must(t, err)
		counts = append(counts, fmt.Sprint(n))
	}
	var (
		key    bpf.LbFlowKey
		choice bpf.LbSelection
		n      int
		iter   = d.maps.Selections.Iterate()
	)
	for iter.Next(&key, &choice) {
		if key.Ifindex == uint32(m.Index) {
			n++
		}
	}
	must(t, iter.Err())
	return strings.Join(append(counts, fmt.Sprint(n)), " ")
}

// fill puts a flow to the local pod of m, one to a pod that nobody knows, and a choice into the maps.
func (n *node) fill(d *Dataplane, m lb.Master) {
	n.t.Helper()
	n.addFlow(d, m, netip.MustParseAddr("192.168.20.21"), ether.MAC{2, 0, 0, 0, 0, 1})
	n.addFlow(d, m, netip.MustParseAddr("192.168.20.99"), ether.MAC{2, 0, 0, 0, 0, 9})
	must(n.t, d.maps.Selections.Put(bpf.LbFlowKey{Ifindex: uint32(m.Index), Sport: 1}, bpf.LbSelection{Backend: 1}))
	if got := entries(n.t, d, m); got != "4 4 4 1" {
		n.t.Fatalf("filled %s", got)
	}
}

// merged is one State of several.
func merged(states ...lb.State) lb.State {
	all := states[0]
	for _, s := range states[1:] {
		all.Masters = slices.Concat(all.Masters, s.Masters)
		all.Pods = slices.Concat(all.Pods, s.Pods)
		all.VIPs = slices.Concat(all.VIPs, s.VIPs)
		all.Frontends = slices.Concat(all.Frontends, s.Frontends)
	}
	return all
}

func (n *node) pinsOf(m lb.Master) []string {
	n.t.Helper()
	var of []string
	for _, pattern := range []string{fmt.Sprintf("lb_*-%d", m.Index), fmt.Sprintf("links/%d-*", m.Index)} {
		files, err := filepath.Glob(filepath.Join(n.pins, pattern))
		must(n.t, err)
		of = append(of, files...)
	}
	return of
}

func TestAChangeThatPacketsDoNotSeeExchangesNoProgram(t *testing.T) {
	each(t, func(n *node, mode AttachMode) {
		d := n.open(mode)
		m := n.addMaster("eth1")
		n.apply(d, state(m))
		n.fill(d, m)
		before := programIDs(n.t, d, m)
		for _, change := range []func(*lb.Master){
			func(m *lb.Master) { m.Up = !m.Up },
			func(m *lb.Master) { m.Name = "eth9" },
			func(m *lb.Master) { m.Segment = "storage" },
			func(m *lb.Master) { m.Addrs = []netip.Addr{netip.MustParseAddr("192.168.20.2")} },
		} {
			change(&m)
			n.apply(d, state(m))
			if diff := cmp.Diff(before, programIDs(n.t, d, m)); diff != "" {
				n.t.Errorf("%+v: programs (-before +after):\n%s", m, diff)
			}
		}
		if got := entries(n.t, d, m); got != "4 4 4 1" {
			n.t.Errorf("flows and choices left: %s", got)
		}
	})
}

func TestANewMACComesWithNewProgramsAndKeepsTheFlows(t *testing.T) {
	each(t, func(n *node, mode AttachMode) {
		d := n.open(mode)
		m := n.addMaster("eth1")
		n.apply(d, state(m))
		n.fill(d, m)
		if got := programMAC(n.t, d, m); got != m.MAC {
			n.t.Fatalf("the programs know MAC %s, want %s", got, m.MAC)
		}
		m.MAC = ether.MAC{2, 0, 0, 0, 0, 0xee}
		n.apply(d, state(m))
		if got := programMAC(n.t, d, m); got != m.MAC {
			n.t.Errorf("the programs know MAC %s, want %s", got, m.MAC)
		}
		if got := programIDs(n.t, d, m); len(got) != 2 {
			n.t.Errorf("programs %v, want one a direction", got)
		}
		if !strings.Contains(dump(n.t, d), "address 192.168.20.240 kind=1 mac="+m.MAC.String()) {
			n.t.Errorf("the VIP's MAC is not the new one:\n%s", dump(n.t, d))
		}
		if got := entries(n.t, d, m); got != "4 4 4 1" {
			n.t.Errorf("flows and choices left: %s", got)
		}
	})
}

func TestAnInterfaceInTheMastersPlaceIsAttachedTo(t *testing.T) {
	each(t, func(n *node, mode AttachMode) {
		d := n.open(mode)
		m := n.addMaster("eth1")
		n.apply(d, state(m))
		m = n.replace(m, "eth1")
		if d.Serves(m.Index, state(m).Pods[0].MAC) {
			n.t.Error("pods are served by programs that went with the interface")
		}
		n.apply(d, state(m))
		if got := attachedPrograms(n.t, m.Index); len(got) != 2 {
			n.t.Errorf("programs %v, want one a direction", got)
		}
		if !d.Serves(m.Index, state(m).Pods[0].MAC) {
			n.t.Error("pods are not served again")
		}
	})
}

func TestNothingIsLeftOfAMasterThatIsGone(t *testing.T) {
	each(t, func(n *node, mode AttachMode) {
		d := n.open(mode)
		gone, stays := n.addMaster("eth1"), n.addMaster("eth2")
		n.apply(d, merged(state(gone), state(stays)))
		n.fill(d, gone)
		n.fill(d, stays)
		before := programIDs(n.t, d, stays)
		stranger := n.replace(gone, "stranger")
		n.apply(d, state(stays))
		n.expectNothing(d, stranger)
		if diff := cmp.Diff(before, programIDs(n.t, d, stays)); diff != "" {
			n.t.Errorf("programs on the other master (-before +after):\n%s", diff)
		}
		if got := entries(n.t, d, stays); got != "4 4 4 1" {
			n.t.Errorf("flows and choices on the other master: %s", got)
		}
	})
}

func TestNothingIsLeftOfAMasterThatWentWhileTheAgentWasDown(t *testing.T) {
	each(t, func(n *node, mode AttachMode) {
		for _, successor := range []string{"", "stranger"} {
			d := n.open(mode)
			m := n.addMaster("eth1")
			n.apply(d, state(m))
			n.fill(d, m)
			must(n.t, d.Close())
			if successor == "" {
				n.remove(m)
			} else {
				m = n.replace(m, successor)
			}
			d = n.open(mode)
			n.apply(d, lb.State{Node: "a"})
			n.expectNothing(d, m)
			must(n.t, d.Close())
		}
	})
}

// expectNothing checks that nothing of ours speaks of a master's number any more.
func (n *node) expectNothing(d *Dataplane, m lb.Master) {
	n.t.Helper()
	if got := entries(n.t, d, m); got != "0 0 0 0" {
		n.t.Errorf("flows and choices left: %s", got)
	}
	if pins := n.pinsOf(m); len(pins) != 0 {
		n.t.Errorf("pins left: %v", pins)
	}
	addresses := addressesOf(n.t, d)
	for key := range addresses {
		if key.Ifindex == uint32(m.Index) {
			n.t.Errorf("address %s left", key.Addr.Addr())
		}
	}
	stations := stationsOf(n.t, d)
	for key := range stations {
		if key.Ifindex == uint32(m.Index) {
			n.t.Errorf("station %s left", ether.MAC(key.Mac))
		}
	}
	services := servicesOf(n.t, d)
	for key := range services {
		if key.Ifindex == uint32(m.Index) {
			n.t.Errorf("service %s left", key.Addr.Addr())
		}
	}
	if n.owns(d, m, "192.168.20.240") {
		n.t.Error("the VIP is still owned")
	}
	if _, err := netlink.LinkByIndex(m.Index); err == nil {
		if got := attachedPrograms(n.t, m.Index); len(got) != 0 {
			n.t.Errorf("programs on the interface: %v", got)
		}
	}
}

// A tcx link stays on an interface that moves to another network namespace, and runs there.
func TestAMasterInAnotherNamespaceIsLetGo(t *testing.T) {
	each(t, func(n *node, mode AttachMode) {
		d := n.open(mode)
		m := n.addMaster("eth1")
		n.apply(d, state(m))
		here, err := os.Open("/proc/thread-self/ns/net")
		must(n.t, err)
		defer here.Close()
		must(n.t, unix.Unshare(unix.CLONE_NEWNET))
		there, err := os.Open("/proc/thread-self/ns/net")
		must(n.t, err)
		defer there.Close()
		must(n.t, unix.Setns(int(here.Fd()), unix.CLONE_NEWNET))

		link, err := netlinksafe.LinkByName("eth1")
		must(n.t, err)
		must(n.t, netlink.LinkSetNsFd(link, int(there.Fd())))
		must(n.t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth1", Index: m.Index}, PeerName: "eth1q"}))
		n.apply(d, state(m)) // another interface in its place
		if got := attachedPrograms(n.t, m.Index); len(got) != 2 {
			n.t.Errorf("programs %v on the interface in its place, want one a direction", got)
		}
		must(n.t, unix.Setns(int(there.Fd()), unix.CLONE_NEWNET))
		if got := attachedPrograms(n.t, m.Index); len(got) != 0 {
			n.t.Errorf("programs on the interface that went: %v", got)
		}
		must(n.t, unix.Setns(int(here.Fd()), unix.CLONE_NEWNET))
	})
}
