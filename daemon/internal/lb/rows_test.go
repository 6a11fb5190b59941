// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/ether"
)

func TestServicesAreRowsOfTheState(t *testing.T) {
	state := Compile(mustSnapshot(t, mustParse(t, "testdata/three-nodes.txtar")))
	got := state.Services(func(f Frontend, b Backend) api.Counters {
		return api.Counters{Connections: uint64(f.Addr.Port()), Packets: uint64(b.Addr.Addr().As4()[3]), Bytes: 1000}
	})
	vip := netip.MustParseAddr("192.168.20.242")
	dns := api.Service{
		Namespace: "default", Name: "dns", Network: "default/macvlan1", VIP: vip, Port: 53, Protocol: "TCP",
		Algorithm: "maglev", Mode: "direct", Owner: "a", Master: "eth1", State: "no-backends", Backends: []api.Backend{},
	}
	dnsUDP := dns
	dnsUDP.Protocol = "UDP"
	backend := func(last byte, node, pod string) api.Backend {
		return api.Backend{
			Pod: "default/" + pod, Node: node, Address: netip.AddrFrom4([4]byte{192, 168, 20, last}),
			MAC: ether.MAC{2, 0, 0, 0, 0, last/10*16 + last%10}, Port: 80, Weight: 1, State: "active", Local: node == "b",
			Counters: api.Counters{Connections: 55003, Packets: uint64(last), Bytes: 1000},
		}
	}
	want := []api.Service{dns, dnsUDP, {
		Namespace: "default", Name: "multus-service", Network: "default/macvlan1",
		VIP: netip.MustParseAddr("192.168.20.240"), Port: 55003, Protocol: "TCP", Algorithm: "maglev", Mode: "direct",
		Owner: "c", Master: "eth1", State: "active",
		Counters: api.Counters{Connections: 3 * 55003, Packets: 21 + 22 + 23, Bytes: 3000},
		Backends: []api.Backend{backend(21, "a", "web-0"), backend(22, "b", "web-1"), backend(23, "c", "web-2")},
	}}
	if diff := cmp.Diff(want, got, netips); diff != "" {
		t.Error(diff)
	}
}

func TestAVIPWithoutCandidatesHasNoOwner(t *testing.T) {
	in := manyServices(1, 1)
	in.Nodes = nil
	rows := Compile(in).Services(func(Frontend, Backend) api.Counters { return api.Counters{} })
	if len(rows) != 1 || rows[0].Owner != "" {
		t.Errorf("rows: %+v", rows)
	}
}

func TestAMasterThatIsDownShowsInEveryRow(t *testing.T) {
	in := manyServices(2, 1)
	in.Links[0].Up = false
	in.Slices = in.Slices[:1]
	for _, row := range Compile(in).Services(func(Frontend, Backend) api.Counters { return api.Counters{} }) {
		if row.State != api.StateMasterDown {
			t.Errorf("%s is %s", row.Name, row.State)
		}
		for _, b := range row.Backends {
			if b.State != "active" {
				t.Errorf("its backend is %s, want what the cluster says of it", b.State)
			}
		}
	}
}
