// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// dump renders the maps as a person reads them; ids, which are random, appear as what they stand for.
func dump(t testing.TB, d *Dataplane) string {
	t.Helper()
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }

	addresses := addressesOf(t, d)
	for k, v := range addresses {
		add("address %s kind=%d mac=%s flags=%d", k.Addr.Addr(), v.Kind, ether.MAC(v.Mac), v.Flags)
	}
	stations := stationsOf(t, d)
	for k, v := range stations {
		add("station %s kind=%d flags=%d numbered=%t", ether.MAC(k.Mac), v.Kind, v.Flags, v.Netns >= 0)
	}
	backends := backendsOf(t, d)
	name := func(id uint32) string {
		b, ok := backends[id]
		if !ok {
			return fmt.Sprintf("dangling(%d)", id)
		}
		return netip.AddrPortFrom(b.Addr.Addr(), bpf.NetworkPort(b.Port)).String()
	}
	for id, b := range backends {
		add("backend %s mac=%s flags=%d numbered=%t", name(id), ether.MAC(b.Mac), b.Flags, b.Netns >= 0)
	}
	services := servicesOf(t, d)
	for k, v := range services {
		add("service %s:%d proto=%d table=%s", k.Addr.Addr(), bpf.NetworkPort(k.Port), k.Proto, dumpTable(t, d, v, name))
	}
	locals := localBackendsOf(t, d)
	for k, id := range locals {
		add("local %s -> %s", ether.MAC(k.Mac), name(id))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func dumpTable(t testing.TB, d *Dataplane, s bpf.LbService, name func(uint32) string) string {
	t.Helper()
	if s.Table == 0 {
		return "none"
	}
	var inner *ebpf.Map
	must(t, d.maps.Tables.Lookup(s.Table, &inner))
	defer inner.Close()
	shares := map[string]int{}
	for i := range s.TableSize {
		var id uint32
		must(t, inner.Lookup(i, &id))
		shares[name(id)]++
	}
	return fmt.Sprint(shares)
}

func TestApplyWritesTheState(t *testing.T) {
	n := newNode(t)
	d := n.open(AttachAuto)
	m := n.addMaster("eth1")
	n.apply(d, state(m))
	want := strings.ReplaceAll(strings.TrimSpace(`
address 192.168.20.21 kind=2 mac=02:00:00:00:00:01 flags=0
address 192.168.20.240 kind=1 mac=MASTER flags=0
backend 192.168.20.21:8080 mac=02:00:00:00:00:01 flags=3 numbered=true
backend 192.168.20.22:8080 mac=02:00:00:00:00:02 flags=2 numbered=false
local 02:00:00:00:00:01 -> 192.168.20.21:8080
service 192.168.20.240:80 proto=6 table=map[192.168.20.21:8080:2047 192.168.20.22:8080:2046]
station 02:00:00:00:00:01 kind=1 flags=0 numbered=true
`), "MASTER", m.MAC.String())
	if diff := cmp.Diff(want, dump(t, d)); diff != "" {
		t.Errorf("maps (-want +got):\n%s", diff)
	}
	if !n.owns(d, m, "192.168.20.240") {
		t.Error("the owned VIP is not in the owners map")
	}
}

// Facts of a master stand in each of its addresses. A flow outlives their change: it is its pod's still.
func TestMastersFactsReachItsAddresses(t *testing.T) {
	n := newNode(t)
	m := n.addMaster("eth1")
	d := n.open(AttachAuto)
	n.apply(d, state(m))
	pod := netip.MustParseAddr("192.168.20.21")
	n.addFlow(d, m, pod, ether.MAC{2, 0, 0, 0, 0, 1})
	m.Shared, m.Apart = true, true
	s := state(m)
	s.Pods[0].Private = true
	s.Peers = []lb.Peer{
		{Master: m.Index, Node: "b", MAC: ether.MAC{2, 0, 0, 0, 0, 0xb}},
		{Master: m.Index, Node: "c", MAC: s.Pods[0].MAC},
	}
	n.apply(d, s)
	var got []string
	for line := range strings.Lines(dump(t, d)) {
		if strings.HasPrefix(line, "address ") || strings.HasPrefix(line, "station ") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := []string{
		"address 192.168.20.21 kind=2 mac=02:00:00:00:00:01 flags=3",
		"address 192.168.20.240 kind=1 mac=" + m.MAC.String() + " flags=3",
		"station 02:00:00:00:00:01 kind=1 flags=1 numbered=true", // a pod's still, though c claims it
		"station 02:00:00:00:00:0b kind=2 flags=0 numbered=false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("maps (-want +got):\n%s", diff)
	}
	if left := flowPods(t, d.maps.Flows); len(left) != 2 {
		t.Errorf("flows of %v are left, want both directions of the pod's", left)
	}
}

// ipvlans have one MAC: what is asked of a backend's sockets must go to its own namespace all the same.
func TestBackendsOfOneMACKeepTheirNamespaces(t *testing.T) {
	n := newNode(t)
	m := n.addMaster("eth1")
	m.Shared, m.IPVlan, m.Routed = true, true, true
	d := n.open(AttachAuto)
	s := state(m)
	holder := exec.CommandContext(t.Context(), "cat")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	in, err := holder.StdinPipe()
	must(t, err)
	must(t, holder.Start())
	t.Cleanup(func() { _ = errors.Join(in.Close(), holder.Wait()) })
	second := s.Pods[0]
	second.Pod, second.Attachment, second.Netns = "default/web-2", "c2/net1", fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
	second.Addrs = []netip.Addr{netip.MustParseAddr("192.168.20.22")}
	s.Pods = append(s.Pods, second)
	for i := range s.Pods {
		s.Pods[i].MAC = m.MAC
		s.Frontends[0].Backends[i].MAC = m.MAC
		s.Frontends[0].Backends[i].Local = true
	}
	n.apply(d, s)
	addresses := addressesOf(t, d)
	for key, info := range addresses {
		if flags := bpf.LbMasterFlag(info.Flags); flags != bpf.LbMasterFlagMASTER_SHARED|bpf.LbMasterFlagMASTER_IPVLAN|bpf.LbMasterFlagMASTER_ROUTED {
			t.Errorf("%s has flags %d", key.Addr.Addr(), flags)
		}
	}
	backends := backendsOf(t, d)
	for _, b := range backends {
		path := map[string]string{"192.168.20.21": s.Pods[0].Netns, "192.168.20.22": second.Netns}[b.Addr.Addr().String()]
		want, err := netnsID(path)
		must(t, err)
		if int(b.Netns) != want {
			t.Errorf("backend %s is in namespace %d, want %d", b.Addr.Addr(), b.Netns, want)
		}
	}
	if len(backends) != 2 {
		t.Errorf("%d backends, want 2", len(backends))
	}
}

func (n *node) owns(d *Dataplane, m lb.Master, vip string) bool {
	n.t.Helper()
	var value bpf.LbOwner
	err := d.maps.Owners.Lookup(bpf.LbAddressKey{Addr: bpf.AddressFrom(netip.MustParseAddr(vip)), Ifindex: uint32(m.Index)}, &value)
	return err == nil
}

func TestEmptyStateCleansUp(t *testing.T) {
	n := newNode(t)
	d := n.open(AttachAuto)
	m := n.addMaster("eth1")
	n.apply(d, state(m))
	n.apply(d, lb.State{Node: "a"})
	if got := dump(t, d); got != "" {
		t.Errorf("left in the maps:\n%s", got)
	}
	if n.owns(d, m, "192.168.20.240") {
		t.Error("the VIP is still owned")
	}
	ids, err := d.tables.ids()
	must(t, err)
	if len(ids) != 0 {
		t.Errorf("%d tables left", len(ids))
	}
	if got := attachedPrograms(t, m.Index); len(got) != 0 {
		t.Errorf("programs left on the master: %v", got)
	}
	left, err := filepath.Glob(filepath.Join(n.pins, "l*", "*"))
	must(t, err)
	if len(left) != 0 {
		t.Errorf("pins left: %v", left)
	}
}

func TestRestartKeepsNumbersAndTables(t *testing.T) {
	for _, mode := range []AttachMode{AttachTCX, AttachClsact} {
		t.Run(string(mode), func(t *testing.T) {
			if mode == AttachTCX {
				testkit.Require(t, testkit.TCX)
			}
			n := newNode(t)
			m := n.addMaster("eth1")
			d := n.open(mode)
			n.apply(d, state(m))
			before := servicesOf(t, d)
			backends := backendsOf(t, d)
			must(t, d.Close())

			d = n.open(mode)
			n.apply(d, state(m))
			after := backendsOf(t, d)
			if diff := cmp.Diff(backends, after); diff != "" {
				t.Errorf("backends after a restart (-before +after):\n%s", diff)
			}
			for key, s := range before {
				now := servicesOf(t, d)
				if now[key].Id != s.Id {
					t.Errorf("service id %d became %d", s.Id, now[key].Id)
				}
			}
			ids, err := d.tables.ids()
			must(t, err)
			if len(ids) != 1 {
				t.Errorf("%d tables, want the one in use", len(ids))
			}
			if got := attachedPrograms(t, m.Index); len(got) != 2 {
				t.Errorf("programs %v, want one a direction", got)
			}
		})
	}
}

func TestChangeOfAttachModeLeavesOneProgramADirection(t *testing.T) {
	testkit.Require(t, testkit.TCX)
	n := newNode(t)
	m := n.addMaster("eth1")
	for _, mode := range []AttachMode{AttachClsact, AttachTCX, AttachClsact} {
		d := n.open(mode)
		n.apply(d, state(m))
		got := attachedPrograms(t, m.Index)
		if len(got) != 2 || !strings.HasPrefix(got[0], string(mode)) {
			t.Errorf("mode %s: programs %v", mode, got)
		}
		must(t, d.Close())
	}
}

func TestMasterThatComesBackIsServedAgain(t *testing.T) {
	n := newNode(t)
	m := n.addMaster("eth1")
	d := n.open(AttachAuto)
	n.apply(d, state(m))
	link, err := netlinksafe.LinkByName("eth1")
	must(t, err)
	must(t, netlink.LinkDel(link))
	n.apply(d, lb.State{Node: "a"})
	m = n.addMaster("eth1")
	n.apply(d, state(m))
	if got := attachedPrograms(t, m.Index); len(got) != 2 {
		t.Errorf("programs %v, want one a direction", got)
	}
}

func TestBackendSetChangePublishesANewTable(t *testing.T) {
	n := newNode(t)
	m := n.addMaster("eth1")
	d := n.open(AttachAuto)
	s := state(m)
	n.apply(d, s)
	service := func() bpf.LbService {
		have := servicesOf(t, d)
		return have[serviceKey(s.Frontends[0])]
	}
	first := service()
	n.apply(d, s)
	if second := service(); second != first {
		t.Errorf("an unchanged state changed the service: %+v, was %+v", second, first)
	}
	s.Frontends[0].Backends = slices.Clone(s.Frontends[0].Backends)
	s.Frontends[0].Backends[0].State = lb.BackendDraining
	n.apply(d, s)
	if third := service(); third.Table == first.Table || third.TableSize != 4093 || third.Id != first.Id {
		t.Errorf("service is %+v after its table changed, was %+v", third, first)
	}
	s.Frontends[0].Backends = slices.Clone(s.Frontends[0].Backends)
	s.Frontends[0].Backends[1].State = lb.BackendDraining
	n.apply(d, s)
	if fourth := service(); fourth.Table != 0 {
		t.Errorf("service %+v still has a table without active backends", fourth)
	}
}

func TestPodIsServedThoughAnotherObjectFails(t *testing.T) {
	n := newNode(t)
	m := n.addMaster("eth1")
	d := n.open(AttachAuto)
	s := state(m)
	if d.Serves(m.Index, s.Pods[0].MAC) {
		t.Error("a pod is served that nobody has applied")
	}
	s.Masters = append(s.Masters, lb.Master{Index: 9999, Name: "gone", MAC: m.MAC})
	if err := d.Apply(t.Context(), s); err == nil || !strings.Contains(err.Error(), "master gone") {
		t.Errorf("error %v does not name the master that does not exist", err)
	}
	if !d.Serves(m.Index, s.Pods[0].MAC) {
		t.Error("the pod is not served because another master failed")
	}
	n.apply(d, lb.State{})
	if d.Serves(m.Index, s.Pods[0].MAC) {
		t.Error("a pod is served that is gone")
	}
}

func TestReasonNamesFollowTheEnum(t *testing.T) {
	spec, err := bpf.LoadLb()
	must(t, err)
	var enum *btf.Enum
	must(t, spec.Types.TypeByName("reason", &enum))
	for _, v := range enum.Values {
		if v.Name == "REASON_MAX" {
			if int(v.Value) != len(reasonNames) {
				t.Errorf("%d names for %d reasons", len(reasonNames), v.Value)
			}
			continue
		}
		want := strings.ToLower(strings.TrimPrefix(v.Name, "REASON_"))
		if got := ReasonName(bpf.LbReason(v.Value)); got != want {
			t.Errorf("reason %d is called %q, want %q", v.Value, got, want)
		}
	}
}

func TestPinDirMustBeOnBPFFS(t *testing.T) {
	_, err := Open(Options{PinDir: filepath.Join(t.TempDir(), "sluice")})
	if err == nil || !strings.Contains(err.Error(), "mount -t bpf") {
		t.Errorf("error %v does not tell how to mount a bpffs", err)
	}
}

func TestPinnedMapOfAnotherLayoutGivesWay(t *testing.T) {
	n := newNode(t)
	d := n.open(AttachAuto)
	m := n.addMaster("eth1")
	n.apply(d, state(m))
	path := filepath.Join(n.pins, bpf.LbMapFlows)
	must(t, d.maps.Flows.Unpin())
	must(t, d.Close())
	other, err := ebpf.NewMap(&ebpf.MapSpec{Name: "flows", Type: ebpf.Hash, KeySize: 8, ValueSize: 8, MaxEntries: 1})
	must(t, err)
	defer other.Close()
	must(t, other.Pin(path))

	d = n.open(AttachAuto)
	n.apply(d, state(m))
	if got := d.maps.Flows.KeySize(); got != 44 {
		t.Errorf("flows has keys of %d bytes, want the new layout's 44", got)
	}
	if !exists(t, path) {
		t.Error("the new map is not pinned")
	}
}

// A namespace that goes loses first what its name stands for, and then its name. Where the agent does not see the host's
// mounts, it looks the same for ever: package attach reports that.
func TestVanishedNetnsDoesNotFailTheOthers(t *testing.T) {
	n := newNode(t)
	m := n.addMaster("eth1")
	d := n.open(AttachAuto)
	nameOnly := filepath.Join(t.TempDir(), "ns")
	must(t, os.WriteFile(nameOnly, nil, 0o600))
	for _, path := range []string{"/run/netns/gone", nameOnly} {
		s := state(m)
		s.Pods[0].Netns = path
		n.apply(d, s)
		stations := stationsOf(t, d)
		if got := stations[stationKey(m.Index, s.Pods[0].MAC)].Netns; got != -1 {
			t.Errorf("netns id %d for %s, which is no namespace, want -1", got, path)
		}
	}
}
