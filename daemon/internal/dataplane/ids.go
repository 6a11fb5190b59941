// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"math/rand/v2"
	"net/netip"

	"github.com/sluice-lb/sluice/bpf"
)

// ids gives services and backends the numbers by which maps refer to them. What is in the pinned maps keeps its number, so
// that flows and caches outlive an agent. New numbers are drawn at random from 32 bits: a cache may still hold the number
// of a backend that is gone, and must not find another one under it, not even after the agent has restarted.
type ids struct {
	taken map[uint32]bool // numbers of either
	// What the pinned maps held when this process began, until the first State is translated.
	services map[bpf.LbServiceKey]uint32
	backends map[backendIdentity]uint32
}

// backendIdentity is what makes a backend the same one: the service that it belongs to, its address and its port.
type backendIdentity struct {
	service uint32
	addr    netip.AddrPort
}

// restoreIDs reads the numbers in force, once.
func (d *Dataplane) restoreIDs() error {
	if d.ids != nil {
		return nil
	}
	services, err := d.services.Stale()
	if err != nil {
		return err
	}
	backends, err := d.backends.Stale()
	if err != nil {
		return err
	}
	d.ids = &ids{
		taken: map[uint32]bool{}, services: map[bpf.LbServiceKey]uint32{}, backends: map[backendIdentity]uint32{},
	}
	for key, s := range services {
		d.ids.services[key] = s.Id
		d.ids.taken[s.Id] = true
	}
	for id, b := range backends {
		d.ids.backends[backendIdentity{b.Service, netip.AddrPortFrom(b.Addr.Addr(), bpf.NetworkPort(b.Port))}] = id
		d.ids.taken[id] = true
	}
	return nil
}

// settle forgets what was restored: whoever is wanted has its number.
func (r *ids) settle() { r.services, r.backends = nil, nil }

// service gives a new service its number.
func (r *ids) service(key bpf.LbServiceKey) uint32 {
	if id, ok := r.services[key]; ok {
		return id
	}
	return r.draw()
}

// backend gives a new backend its number.
func (r *ids) backend(service uint32, addr netip.AddrPort) uint32 {
	if id, ok := r.backends[backendIdentity{service, addr}]; ok {
		return id
	}
	return r.draw()
}

// release lets a number be drawn again. Only chance does that.
func (r *ids) release(id uint32) { delete(r.taken, id) }

func (r *ids) draw() uint32 {
	id := drawID(func(id uint32) bool { return r.taken[id] })
	r.taken[id] = true
	return id
}

// drawID gives a random number that is not taken. 0 is never a valid one.
func drawID(taken func(uint32) bool) uint32 {
	for {
		if id := rand.Uint32(); id != 0 && !taken(id) {
			return id
		}
	}
}
