// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/internal/ether"
)

// NoNetns is what a pod without a network namespace id has.
const NoNetns = -1

// Pod is a pod's interface on the segment.
type Pod struct {
	MAC   ether.MAC
	Addr  netip.Addr
	Netns int32
	Mode  Mode
}

// Mode is macvlan's, as far as the programs must know, or ipvlan. A pod in passthru mode has the master's MAC, as ipvlans do.
type Mode uint8

// The modes.
const (
	Bridge  Mode = iota
	VEPA         // it meets its siblings on the wire alone
	Private      // and shall not talk to them
	IPVlan
	IPVlanL3 // one that hears and answers no ARP
)

// At gives the pod's address with a port.
func (p Pod) At(port uint16) netip.AddrPort { return netip.AddrPortFrom(p.Addr, port) }

// Backend is one endpoint of a service.
type Backend struct {
	Pod    Pod
	Port   uint16
	Local  bool // the pod is attached to this node
	Leaves bool // it takes no new flows, and no table has it
}

// Service is what AddService made; its fields are the keys of the maps.
type Service struct {
	lb       *LB
	id       uint32
	key      bpf.LbServiceKey
	backends []uint32
	tables   uint32
	made     []bpf.LbService // values with the tables that were set, in their order
	current  int             // of made
	clients  bpf.LbService   // flags and affinity: see clients.go
}

// AddVIP makes an address a VIP of the master, owned by this node or not.
func (lb *LB) AddVIP(addr netip.Addr, owned bool) {
	lb.t.Helper()
	lb.addAddress(addr, bpf.LbAddressKindADDRESS_VIP, Master)
	key := bpf.LbAddressKey{Addr: address(addr), Ifindex: lb.cfg.Ifindex}
	if owned {
		lb.put(lb.Owners, key, bpf.LbOwner{})
	}
}

// RemoveVIP withdraws a VIP; its services stay.
func (lb *LB) RemoveVIP(addr netip.Addr) {
	lb.t.Helper()
	lb.removeAddress(addr)
	lb.remove(lb.Owners, bpf.LbAddressKey{Addr: address(addr), Ifindex: lb.cfg.Ifindex})
}

// AddNode makes an address the node's own.
func (lb *LB) AddNode(addr netip.Addr) {
	lb.t.Helper()
	lb.addAddress(addr, bpf.LbAddressKindADDRESS_NODE, Master)
}

// AddPod attaches a pod to this node, or attaches it anew. One with the master's MAC shares it.
func (lb *LB) AddPod(p Pod) {
	lb.t.Helper()
	lb.pods[p.Addr] = p
	lb.setFlags()
	lb.addAddress(p.Addr, bpf.LbAddressKindADDRESS_POD, p.MAC)
	key := bpf.LbStationKey{Ifindex: lb.cfg.Ifindex, Mac: p.MAC}
	station := bpf.LbStation{Kind: uint16(bpf.LbStationKindSTATION_POD), Netns: p.Netns}
	if p.Mode == Private {
		station.Flags = uint16(bpf.LbStationFlagSTATION_PRIVATE)
	}
	lb.put(lb.Stations, key, station)
}

// RemovePod detaches a pod; services may still name it.
func (lb *LB) RemovePod(p Pod) {
	lb.t.Helper()
	delete(lb.pods, p.Addr)
	if !slices.ContainsFunc(slices.Collect(maps.Values(lb.pods)), func(o Pod) bool { return o.MAC == p.MAC }) {
		lb.remove(lb.Stations, bpf.LbStationKey{Ifindex: lb.cfg.Ifindex, Mac: p.MAC})
	}
	lb.removeAddress(p.Addr)
	lb.setFlags()
}

// AddPeer makes a MAC the master of another node.
func (lb *LB) AddPeer(mac ether.MAC) {
	lb.t.Helper()
	key := bpf.LbStationKey{Ifindex: lb.cfg.Ifindex, Mac: mac}
	lb.put(lb.Stations, key, bpf.LbStation{Kind: uint16(bpf.LbStationKindSTATION_PEER), Netns: NoNetns})
}

// setFlags gives all addresses the flags that follow from the pods.
func (lb *LB) setFlags() {
	lb.t.Helper()
	before := lb.flags
	lb.flags = 0
	for _, p := range lb.pods {
		if p.MAC == Master {
			lb.flags |= uint8(bpf.LbMasterFlagMASTER_SHARED)
		}
		switch p.Mode {
		case VEPA, Private:
			lb.flags |= uint8(bpf.LbMasterFlagMASTER_APART)
		case IPVlan:
			lb.flags |= uint8(bpf.LbMasterFlagMASTER_IPVLAN)
		case IPVlanL3:
			lb.flags |= uint8(bpf.LbMasterFlagMASTER_IPVLAN | bpf.LbMasterFlagMASTER_ROUTED)
		}
	}
	if lb.flags == before {
		return
	}
	for key, info := range lb.addresses {
		info.Flags = lb.flags
		lb.addresses[key] = info
		lb.put(lb.Addresses, key, info)
	}
}

// AddService makes a service with its backends; the table has one slot for each, in their order.
func (lb *LB) AddService(proto uint8, at netip.AddrPort, backends ...Backend) *Service {
	lb.t.Helper()
	lb.services++
	s := &Service{lb: lb, id: lb.services}
	s.key = bpf.LbServiceKey{Addr: address(at.Addr()), Ifindex: lb.cfg.Ifindex, Port: port(at.Port()), Proto: proto}
	var slots []int
	for i, b := range backends {
		s.AddBackend(b)
		slots = append(slots, i)
	}
	s.SetTable(slots...)
	return s
}

// AddBackend gives the service one more backend, which no table names yet, and returns its position.
func (s *Service) AddBackend(b Backend) int {
	s.lb.t.Helper()
	s.lb.backends++
	s.backends = append(s.backends, s.lb.backends)
	s.SetBackend(len(s.backends)-1, b)
	return len(s.backends) - 1
}

// SetBackend replaces a backend under the id that it has.
func (s *Service) SetBackend(position int, b Backend) {
	s.lb.t.Helper()
	lb, id := s.lb, s.backends[position]
	value := bpf.LbBackend{
		Addr: address(b.Pod.Addr), Service: s.id, Netns: NoNetns, Mac: b.Pod.MAC, Port: port(b.Port),
	}
	local := bpf.LbLocalBackendKey{Service: s.id, Mac: b.Pod.MAC}
	if !b.Leaves {
		value.Flags = uint32(bpf.LbBackendFlagBACKEND_OPEN)
	}
	if b.Local {
		value.Netns = b.Pod.Netns
		value.Flags |= uint32(bpf.LbBackendFlagBACKEND_LOCAL)
		lb.put(lb.LocalBackends, local, id)
	}
	lb.put(lb.Backends, id, value)
	lb.put(lb.BackendStats, id, make([]bpf.LbTraffic, ebpf.MustPossibleCPU()))
}

// RemoveBackend removes a backend from the maps; a table may still name it.
func (s *Service) RemoveBackend(position int) {
	s.lb.t.Helper()
	if err := s.lb.Backends.Delete(s.backends[position]); err != nil {
		s.lb.t.Fatalf("remove backend: %v", err)
	}
}

// SetTable gives the service a new table: positions of backends. Without any, the service has none.
func (s *Service) SetTable(positions ...int) {
	s.lb.t.Helper()
	value := bpf.LbService{Id: s.id, TableSize: uint32(len(positions))}
	if len(positions) > 0 {
		s.tables++
		value.Table = s.id<<8 | s.tables
		inner, err := ebpf.NewMap(&ebpf.MapSpec{
			Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: value.TableSize, Flags: innerMap,
		})
		if err != nil {
			s.lb.t.Fatalf("make table: %v", err)
		}
		s.lb.t.Cleanup(func() { inner.Close() })
		for slot, position := range positions {
			s.lb.put(inner, uint32(slot), s.backends[position])
		}
		s.lb.newTables[value.Table] = uint32(inner.FD())
	}
	s.current = len(s.made)
	s.made = append(s.made, value)
	s.write()
}

// UseTable gives the service back a table that it had: the first is 0. It costs no wait for RCU.
func (s *Service) UseTable(made int) {
	s.lb.t.Helper()
	s.current = made
	s.write()
}

// flushTables writes the tables that were set since the last run. One batch waits for RCU once, single writes each time.
func (lb *LB) flushTables() error {
	if len(lb.newTables) == 0 {
		return nil
	}
	var ids, fds []uint32
	for id, fd := range lb.newTables {
		ids, fds = append(ids, id), append(fds, fd)
	}
	_, err := lb.Tables.BatchUpdate(ids, fds, nil)
	if errors.Is(err, ebpf.ErrNotSupported) { // by maps of maps before 5.19
		err = nil
		for i := range ids {
			err = errors.Join(err, lb.Tables.Put(ids[i], fds[i]))
		}
	}
	if err != nil {
		return fmt.Errorf("write tables: %w", err)
	}
	clear(lb.newTables)
	return nil
}

// innerMap is BPF_F_INNER_MAP: arrays of different sizes fit into one outer map.
const innerMap = 1 << 12

// Traffic gives what was counted for the backend at a position.
func (s *Service) Traffic(position int) bpf.LbTraffic {
	s.lb.t.Helper()
	var perCPU []bpf.LbTraffic
	if err := s.lb.BackendStats.Lookup(s.backends[position], &perCPU); err != nil {
		s.lb.t.Fatalf("read traffic: %v", err)
	}
	var sum bpf.LbTraffic
	for _, c := range perCPU {
		sum.Flows += c.Flows
		sum.Packets += c.Packets
		sum.Bytes += c.Bytes
	}
	return sum
}

func (lb *LB) addAddress(addr netip.Addr, kind bpf.LbAddressKind, mac ether.MAC) {
	lb.t.Helper()
	key := bpf.LbAddressKey{Addr: address(addr), Ifindex: lb.cfg.Ifindex}
	lb.addresses[key] = bpf.LbAddressInfo{Kind: uint8(kind), Mac: mac, Flags: lb.flags}
	lb.put(lb.Addresses, key, lb.addresses[key])
}

func (lb *LB) removeAddress(addr netip.Addr) {
	lb.t.Helper()
	key := bpf.LbAddressKey{Addr: address(addr), Ifindex: lb.cfg.Ifindex}
	delete(lb.addresses, key)
	lb.remove(lb.Addresses, key)
}

func (lb *LB) remove(m *ebpf.Map, key any) {
	lb.t.Helper()
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		lb.t.Fatalf("remove from %s: %v", m, err)
	}
}

func (lb *LB) put(m *ebpf.Map, key, value any) {
	lb.t.Helper()
	if err := m.Put(key, value); err != nil {
		lb.t.Fatalf("write %s: %v", m, err)
	}
}

// address gives an address as the maps hold it: IPv4 in ::ffff:0:0/96, network order.
func address(a netip.Addr) bpf.LbAddress {
	var out bpf.LbAddress
	octets := a.As16()
	for i := range out.Word {
		out.Word[i] = binary.NativeEndian.Uint32(octets[4*i:])
	}
	return out
}

func toAddr(a bpf.LbAddress) netip.Addr {
	var octets [16]byte
	for i, w := range a.Word {
		binary.NativeEndian.PutUint32(octets[4*i:], w)
	}
	return netip.AddrFrom16(octets).Unmap()
}

// port turns a port into network order, or back.
func port(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}
