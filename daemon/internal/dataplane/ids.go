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
	services map[bpf.LbServiceKey]uint32
	backends map[backendIdentity]uint32
	taken    map[uint32]bool // numbers of either
}

// backendIdentity is what makes a backend the same one: the service that it belongs to, its address and its port.
type backendIdentity struct {
	service uint32
	addr    netip.AddrPort
}

// restoreIDs reads the numbers in force. It is cheap: mirrors remember what the maps hold.
func (d *Dataplane) restoreIDs() (*ids, error) {
	services, err := d.services.Have()
	if err != nil {
		return nil, err
	}
	backends, err := d.backends.Have()
	if err != nil {
		return nil, err
	}
	r := &ids{
		services: make(map[bpf.LbServiceKey]uint32, len(services)),
		backends: make(map[backendIdentity]uint32, len(backends)),
		taken:    make(map[uint32]bool, len(services)+len(backends)),
	}
	for key, s := range services {
		r.services[key] = s.Id
		r.taken[s.Id] = true
	}
	for id, b := range backends {
		r.backends[backendIdentity{b.Service, netip.AddrPortFrom(b.Addr.Addr(), bpf.NetworkPort(b.Port))}] = id
		r.taken[id] = true
	}
	return r, nil
}

func (r *ids) service(key bpf.LbServiceKey) uint32 {
	id, ok := r.services[key]
	if !ok {
		id = r.draw()
		r.services[key] = id
	}
	return id
}

func (r *ids) backend(service uint32, addr netip.AddrPort) uint32 {
	identity := backendIdentity{service, addr}
	id, ok := r.backends[identity]
	if !ok {
		id = r.draw()
		r.backends[identity] = id
	}
	return id
}

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
