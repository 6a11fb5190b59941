// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// frontend is an lb.Frontend with what it has in the maps. No two have an entry in common.
type frontend struct {
	lb.Frontend
	key   bpf.LbServiceKey
	id    uint32
	ids   []uint32  // of Backends, in their order
	table published // that the service uses
	due   bool      // table is not that of these backends
	pass  uint64    // that saw it last
}

// setFrontends wants the entries of these frontends and of no others. What stands unchanged in State costs a look.
func (d *Dataplane) setFrontends(all []lb.Frontend, netns map[bpf.LbAddressKey]int32) {
	d.pass++
	moved := !maps.Equal(d.podNetns, netns)
	d.podNetns = netns
	for _, now := range all {
		key := serviceKey(now)
		f := d.frontends[key]
		if f == nil {
			f = &frontend{key: key, id: d.ids.service(key)}
			d.frontends[key] = f
			d.setFrontend(f, now)
		} else if !f.Equal(now) || moved && slices.ContainsFunc(now.Backends, isLocal) {
			d.setFrontend(f, now)
		}
		f.Frontend, f.pass = now, d.pass
	}
	for key, f := range d.frontends {
		if f.pass != d.pass {
			d.removeFrontend(f)
			delete(d.frontends, key)
		}
	}
	d.ids.settle()
}

func isLocal(b lb.Backend) bool { return b.Local }

// setFrontend replaces what is wanted for a frontend. Mirrors do not mind that an entry is taken off and set again.
func (d *Dataplane) setFrontend(f *frontend, now lb.Frontend) {
	known := make(map[netip.AddrPort]uint32, len(f.ids))
	for i, id := range f.ids {
		known[f.Backends[i].Addr] = id
	}
	d.unsetEntries(f)
	open := f.open()
	f.Frontend, f.ids = now, make([]uint32, len(now.Backends))
	for i, b := range now.Backends {
		id, ok := known[b.Addr]
		if !ok {
			id = d.ids.backend(f.id, b.Addr)
		}
		f.ids[i] = id
		delete(known, b.Addr)
	}
	for _, id := range known {
		d.ids.release(id)
	}
	f.due = f.due || !slices.Equal(open, f.open())
	d.setEntries(f)
}

func (d *Dataplane) removeFrontend(f *frontend) {
	d.unsetEntries(f)
	d.services.Unset(f.key)
	d.tables.drop(f.table)
	d.ids.release(f.id)
	for _, id := range f.ids {
		d.ids.release(id)
	}
}

func (d *Dataplane) setEntries(f *frontend) {
	for i, b := range f.Backends {
		id := f.ids[i]
		entry := bpf.LbBackend{
			Addr:    bpf.AddressFrom(b.Addr.Addr()),
			Port:    bpf.NetworkPort(b.Addr.Port()),
			Mac:     b.MAC,
			Service: f.id,
			Netns:   -1,
		}
		if b.State.Open() {
			entry.Flags |= uint32(bpf.LbBackendFlagBACKEND_OPEN)
		}
		if b.Local {
			entry.Flags |= uint32(bpf.LbBackendFlagBACKEND_LOCAL)
			if netns, ok := d.podNetns[addressKey(f.Master, b.Addr.Addr())]; ok {
				entry.Netns = netns
			}
			// Of ipvlans, which share it, the last stands for all.
			d.localBackends.Set(bpf.LbLocalBackendKey{Service: f.id, Mac: b.MAC}, id)
		}
		d.backends.Set(id, entry)
		d.stats.Set(id, struct{}{})
	}
	for key := range f.allowed() {
		d.allowed.Set(key, 1)
	}
	d.services.Set(f.key, f.service())
}

// unsetEntries takes off all of a frontend's entries but the service.
func (d *Dataplane) unsetEntries(f *frontend) {
	for i, b := range f.Backends {
		d.backends.Unset(f.ids[i])
		d.stats.Unset(f.ids[i])
		if b.Local {
			d.localBackends.Unset(bpf.LbLocalBackendKey{Service: f.id, Mac: b.MAC})
		}
	}
	for key := range f.allowed() {
		d.allowed.Unset(key)
	}
}

// publishTables gives each frontend the table of its backends, and its service the table.
func (d *Dataplane) publishTables() error {
	var due []*frontend
	for _, f := range d.frontends {
		if f.due {
			due = append(due, f)
		}
	}
	err := d.tables.publish(due)
	for _, f := range due {
		d.services.Set(f.key, f.service())
	}
	return err
}

// open gives the ids of the backends that take new flows, in their order: the table follows from it alone.
func (f *frontend) open() []uint32 {
	open := make([]uint32, 0, len(f.ids))
	for i, id := range f.ids {
		if f.Backends[i].State.Open() {
			open = append(open, id)
		}
	}
	return open
}

// service gives the frontend's value in services.
func (f *frontend) service() bpf.LbService {
	s := bpf.LbService{Id: f.id, Table: f.table.id, TableSize: f.table.size}
	if f.Clients.Affinity > 0 {
		s.Flags |= uint32(bpf.LbServiceFlagSERVICE_AFFINITY)
		// Rounded up: a client keeps its pod for as long as it was promised.
		age := time.Duration(f.Clients.Affinity)*time.Second + flowTimeUnit - 1
		s.Affinity = uint32(age / flowTimeUnit)
	}
	if f.Clients.Restricted {
		s.Flags |= uint32(bpf.LbServiceFlagSERVICE_RANGES)
	}
	return s
}

// allowed gives the prefixes of the clients that are let in, if not all are.
func (f *frontend) allowed() iter.Seq[bpf.LbAllowedKey] {
	return func(yield func(bpf.LbAllowedKey) bool) {
		for _, prefix := range f.Clients.Ranges {
			// One trie holds both families, and the shortest IPv6 prefixes would cover all of IPv4.
			same := prefix.Addr().Is4() == f.Addr.Addr().Is4()
			if f.Clients.Restricted && same && !yield(allowedKey(f.id, prefix)) {
				return
			}
		}
	}
}

func allowedKey(service uint32, prefix netip.Prefix) bpf.LbAllowedKey {
	const bits = 128
	return bpf.LbAllowedKey{
		PrefixLen: uint32(32 + bits - prefix.Addr().BitLen() + prefix.Bits()),
		Service:   service,
		Addr:      bpf.AddressFrom(prefix.Addr()),
	}
}

func serviceKey(f lb.Frontend) bpf.LbServiceKey {
	return bpf.LbServiceKey{
		Addr:    bpf.AddressFrom(f.Addr.Addr()),
		Ifindex: uint32(f.Master),
		Port:    bpf.NetworkPort(f.Addr.Port()),
		Proto:   uint8(f.Protocol),
	}
}
