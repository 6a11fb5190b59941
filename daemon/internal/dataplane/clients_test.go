// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// isAllowed asks as the programs do: with the whole address of the client.
func isAllowed(t testing.TB, d *Dataplane, service uint32, client string) bool {
	t.Helper()
	addr := netip.MustParseAddr(client)
	var value uint32
	err := d.maps.Allowed.Lookup(allowedKey(service, netip.PrefixFrom(addr, addr.BitLen())), &value)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func onlyService(t testing.TB, d *Dataplane) bpf.LbService {
	t.Helper()
	services := servicesOf(t, d)
	if len(services) != 1 {
		t.Fatalf("%d services, want 1", len(services))
	}
	for _, s := range services {
		return s
	}
	return bpf.LbService{}
}

func TestSourceRangesAreThoseOfTheVIPsFamily(t *testing.T) {
	n := newNode(t)
	d := n.open(AttachAuto)
	s := state(n.addMaster("eth1"))
	s.Frontends[0].Clients = lb.Clients{Restricted: true, Ranges: []netip.Prefix{
		netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("::/0"),
	}}
	n.apply(d, s)
	service := onlyService(t, d)
	if service.Flags&uint32(bpf.LbServiceFlagSERVICE_RANGES) == 0 {
		t.Error("the service does not ask for its ranges")
	}
	got := map[string]bool{}
	want := map[string]bool{
		"10.1.255.255": true, "10.2.0.0": false, "192.0.2.7": true, "192.0.2.6": false,
		"203.0.113.9": false, // which ::/0 would cover where IPv4 is mapped
	}
	for client := range want {
		got[client] = isAllowed(t, d, service.Id, client)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("who is let in (-want +got):\n%s", diff)
	}
	if isAllowed(t, d, service.Id+1, "10.1.0.1") {
		t.Error("a range counts for another service too")
	}
}

func TestRangesGoWithTheirService(t *testing.T) {
	n := newNode(t)
	d := n.open(AttachAuto)
	s := state(n.addMaster("eth1"))
	s.Frontends[0].Clients = lb.Clients{Restricted: true, Ranges: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
	n.apply(d, s)
	id := onlyService(t, d).Id
	s.Frontends[0].Clients = lb.Clients{}
	n.apply(d, s)
	if service := onlyService(t, d); service.Flags != 0 || service.Id != id {
		t.Errorf("service %d with flags %#x, want %d with none", service.Id, service.Flags, id)
	}
	if isAllowed(t, d, id, "10.1.0.1") {
		t.Error("the range is still in the map")
	}
}

func TestAffinityIsRoundedUp(t *testing.T) {
	n := newNode(t)
	d := n.open(AttachAuto)
	s := state(n.addMaster("eth1"))
	for seconds, units := range map[uint32]uint32{1: 1, 2: 2, 10_800: 10_059, 86_400: 80_467} {
		s.Frontends[0].Clients.Affinity = seconds
		n.apply(d, s)
		service := onlyService(t, d)
		if service.Affinity != units || service.Flags != uint32(bpf.LbServiceFlagSERVICE_AFFINITY) {
			t.Errorf("%d s are %d units of 2^30 ns with flags %#x, want %d with SERVICE_AFFINITY",
				seconds, service.Affinity, service.Flags, units)
		}
	}
}

// TestBackendsTakeNewFlowsByTheirState: without the flag, a client that was kept with a backend is placed anew.
func TestBackendsTakeNewFlowsByTheirState(t *testing.T) {
	n := newNode(t)
	d := n.open(AttachAuto)
	s := state(n.addMaster("eth1"))
	for state, open := range map[lb.BackendState]bool{
		lb.BackendActive: true, lb.BackendUnattached: true, lb.BackendDraining: false, lb.BackendElsewhere: false,
	} {
		s.Frontends[0].Backends = slices.Clone(s.Frontends[0].Backends)
		s.Frontends[0].Backends[1].State = state
		n.apply(d, s)
		backends := backendsOf(t, d)
		found := false
		for _, b := range backends {
			if b.Mac != s.Frontends[0].Backends[1].MAC {
				continue
			}
			found = true
			if got := b.Flags&uint32(bpf.LbBackendFlagBACKEND_OPEN) != 0; got != open {
				t.Errorf("backend that is %s takes new flows: %t, want %t", state, got, open)
			}
		}
		if !found {
			t.Errorf("backend that is %s is not in the map", state)
		}
	}
}
