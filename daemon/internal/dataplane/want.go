// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/daemon/internal/dataplane/owner"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

// want is a State in the maps' own terms.
type want struct {
	addresses     map[bpf.LbAddressKey]bpf.LbAddressInfo
	stations      map[bpf.LbStationKey]bpf.LbStation
	services      map[bpf.LbServiceKey]bpf.LbService
	allowed       map[bpf.LbAllowedKey]uint32
	backends      map[uint32]bpf.LbBackend
	localBackends map[bpf.LbLocalBackendKey]uint32
	stats         map[uint32]struct{}
	tables        map[bpf.LbServiceKey]slots

	netns map[bpf.LbAddressKey]int32 // numbers of the namespaces in which this node's pods have their addresses
}

// slots is a Maglev table in terms of backend ids: slot i is ids[table[i]]. Both are shared, never changed.
type slots struct {
	table []uint32
	ids   []uint32
}

// want translates the state. A pod whose network namespace cannot be numbered is served all the same: its sockets cannot
// be asked, and the error says so.
func (d *Dataplane) want(state lb.State) (*want, error) {
	ids, err := d.restoreIDs()
	if err != nil {
		return nil, err
	}
	w := &want{
		addresses:     map[bpf.LbAddressKey]bpf.LbAddressInfo{},
		stations:      map[bpf.LbStationKey]bpf.LbStation{},
		services:      map[bpf.LbServiceKey]bpf.LbService{},
		allowed:       map[bpf.LbAllowedKey]uint32{},
		backends:      map[uint32]bpf.LbBackend{},
		localBackends: map[bpf.LbLocalBackendKey]uint32{},
		stats:         map[uint32]struct{}{},
		tables:        map[bpf.LbServiceKey]slots{},
		netns:         map[bpf.LbAddressKey]int32{},
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
	for _, f := range state.Frontends {
		w.addFrontend(f, ids)
	}
	return w, errors.Join(errs...)
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

func (w *want) addFrontend(f lb.Frontend, ids *ids) {
	key := serviceKey(f)
	service := ids.service(key)
	slots := slots{table: f.Table, ids: make([]uint32, len(f.Backends))}
	for i, b := range f.Backends {
		id := ids.backend(service, b.Addr)
		slots.ids[i] = id
		entry := bpf.LbBackend{
			Addr:    bpf.AddressFrom(b.Addr.Addr()),
			Port:    bpf.NetworkPort(b.Addr.Port()),
			Mac:     b.MAC,
			Service: service,
			Netns:   -1,
		}
		if b.State.Open() {
			entry.Flags |= uint32(bpf.LbBackendFlagBACKEND_OPEN)
		}
		if b.Local {
			entry.Flags |= uint32(bpf.LbBackendFlagBACKEND_LOCAL)
			if netns, ok := w.netns[addressKey(f.Master, b.Addr.Addr())]; ok {
				entry.Netns = netns
			}
			// Of ipvlans, which share it, the last stands for all.
			w.localBackends[bpf.LbLocalBackendKey{Service: service, Mac: b.MAC}] = id
		}
		w.backends[id] = entry
		w.stats[id] = struct{}{}
	}
	w.services[key] = w.service(service, f)
	if len(f.Table) > 0 {
		w.tables[key] = slots
	}
}

// service gives the service's value but for its table, and writes down whom it lets in.
func (w *want) service(id uint32, f lb.Frontend) bpf.LbService {
	s := bpf.LbService{Id: id}
	if f.Clients.Affinity > 0 {
		s.Flags |= uint32(bpf.LbServiceFlagSERVICE_AFFINITY)
		// Rounded up: a client keeps its pod for as long as it was promised.
		age := time.Duration(f.Clients.Affinity)*time.Second + flowTimeUnit - 1
		s.Affinity = uint32(age / flowTimeUnit)
	}
	if !f.Clients.Restricted {
		return s
	}
	s.Flags |= uint32(bpf.LbServiceFlagSERVICE_RANGES)
	for _, prefix := range f.Clients.Ranges {
		// One trie holds both families, and the shortest IPv6 prefixes would cover all of IPv4.
		if prefix.Addr().Is4() == f.Addr.Addr().Is4() {
			w.allowed[allowedKey(id, prefix)] = 1
		}
	}
	return s
}

func allowedKey(service uint32, prefix netip.Prefix) bpf.LbAllowedKey {
	const bits = 128
	return bpf.LbAllowedKey{
		PrefixLen: uint32(32 + bits - prefix.Addr().BitLen() + prefix.Bits()),
		Service:   service,
		Addr:      bpf.AddressFrom(prefix.Addr()),
	}
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

func serviceKey(f lb.Frontend) bpf.LbServiceKey {
	return bpf.LbServiceKey{
		Addr:    bpf.AddressFrom(f.Addr.Addr()),
		Ifindex: uint32(f.Master),
		Port:    bpf.NetworkPort(f.Addr.Port()),
		Proto:   uint8(f.Protocol),
	}
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
