// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/daemon/internal/dataplane/owner"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

// want is the part of a State that is small, in the maps' own terms.
type want struct {
	addresses map[bpf.LbAddressKey]bpf.LbAddressInfo
	stations  map[bpf.LbStationKey]bpf.LbStation
	netns     map[bpf.LbAddressKey]int32 // numbers of the namespaces in which this node's pods have their addresses
}

// want tells the mirrors what is wanted. A pod whose network namespace cannot be numbered is served all the same: its sockets
// cannot be asked, and the error says so.
func (d *Dataplane) want(state lb.State) error {
	w := &want{
		addresses: make(map[bpf.LbAddressKey]bpf.LbAddressInfo, len(state.VIPs)),
		stations:  map[bpf.LbStationKey]bpf.LbStation{},
		netns:     map[bpf.LbAddressKey]int32{},
	}
	var errs []error
	masters := map[int]lb.Master{}
	for _, m := range state.Masters {
		masters[m.Index] = m
		for _, addr := range m.Addrs {
			w.addAddress(m, addr, bpf.LbAddressKindADDRESS_NODE, m.MAC)
		}
	}
	for _, p := range state.Peers {
		w.stations[stationKey(p.Master, p.MAC)] = bpf.LbStation{Kind: uint16(bpf.LbStationKindSTATION_PEER), Netns: -1}
	}
	// A local pod wins over a peer that claims its MAC: it is known from the kernel.
	for _, p := range state.Pods {
		netns, err := d.netns(p.Netns)
		// A pod that is being deleted loses its namespace before its attachment; that must not fail another pod's ADD.
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("number the network namespace of pod %s: %w", p.Pod, err))
		}
		w.stations[stationKey(p.Master, p.MAC)] = podStation(p, netns)
		for _, addr := range p.Addrs {
			w.addAddress(masters[p.Master], addr, bpf.LbAddressKindADDRESS_POD, p.MAC)
			w.netns[addressKey(p.Master, addr)] = int32(netns)
		}
	}
	// Last, so that a VIP wins where an address is claimed twice; Compile has reported that.
	for _, v := range state.VIPs {
		w.addAddress(masters[v.Master], v.Addr, bpf.LbAddressKindADDRESS_VIP, masters[v.Master].MAC)
	}
	d.addresses.SetAll(w.addresses)
	d.stations.SetAll(w.stations)
	d.setFrontends(state.Frontends, w.netns)
	return errors.Join(errs...)
}

func (w *want) addAddress(m lb.Master, addr netip.Addr, kind bpf.LbAddressKind, mac ether.MAC) {
	var flags bpf.LbMasterFlag
	if m.Shared {
		flags |= bpf.LbMasterFlagMASTER_SHARED
	}
	if m.Apart {
		flags |= bpf.LbMasterFlagMASTER_APART
	}
	if m.IPVlan {
		flags |= bpf.LbMasterFlagMASTER_IPVLAN
	}
	if m.Routed {
		flags |= bpf.LbMasterFlagMASTER_ROUTED
	}
	w.addresses[addressKey(m.Index, addr)] = bpf.LbAddressInfo{Kind: uint8(kind), Mac: mac, Flags: uint8(flags)}
}

func addressKey(master int, addr netip.Addr) bpf.LbAddressKey {
	return bpf.LbAddressKey{Addr: bpf.AddressFrom(addr), Ifindex: uint32(master)}
}

func stationKey(master int, mac ether.MAC) bpf.LbStationKey {
	return bpf.LbStationKey{Ifindex: uint32(master), Mac: mac}
}

func podStation(p lb.Pod, netns int) bpf.LbStation {
	station := bpf.LbStation{Kind: uint16(bpf.LbStationKindSTATION_POD), Netns: int32(netns)}
	if p.Private {
		station.Flags = uint16(bpf.LbStationFlagSTATION_PRIVATE)
	}
	return station
}

func ownedVIPs(state lb.State) []owner.VIP {
	var owned []owner.VIP
	for _, v := range state.VIPs {
		if v.Owned {
			owned = append(owned, owner.VIP{Master: v.Master, Addr: v.Addr})
		}
	}
	return owned
}
