// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"net/netip"
	"slices"
)

// segmentAddr is an address on a segment: one station's, or there is a conflict.
type segmentAddr struct {
	segment string
	addr    netip.Addr
}

// serviceNetwork names the endpoints of one Service on one network.
type serviceNetwork struct{ service, network string }

// endpoints indexes the endpoints of served networks. It is kept from pass to pass, and notes what a pass changes.
type endpoints struct {
	slices    map[sliceID]*knownSlice
	order     []*knownSlice // as the last pass saw them; nil where there was none
	byService map[serviceNetwork][]*knownSlice
	claims    map[segmentAddr][]claimant // nearly always one

	pass    uint64
	touched map[segmentAddr]bool // addresses of which something is other than in the last pass
	stale   map[string]bool      // Services, as namespace/name, that have an endpoint there
}

// sliceID tells a slice from any other that a source publishes.
type sliceID struct {
	service, network string
	endpoints        *Endpoint // the first
	count            int
	ports            *ServicePort
	portCount        int
}

// knownSlice is a slice with endpoints on a served network.
type knownSlice struct {
	Slice
	id      sliceID
	segment string
	pass    uint64 // that saw it last
}

// claimant is an endpoint that has an address, with the slice that lists it.
type claimant struct {
	*Endpoint
	of *knownSlice
}

func newEndpoints() endpoints {
	return endpoints{
		slices: map[sliceID]*knownSlice{}, byService: map[serviceNetwork][]*knownSlice{}, claims: map[segmentAddr][]claimant{},
	}
}

func identify(s *Slice) sliceID {
	id := sliceID{service: s.Service, network: s.Network, count: len(s.Endpoints), portCount: len(s.Ports)}
	id.endpoints = &s.Endpoints[0]
	if len(s.Ports) > 0 {
		id.ports = &s.Ports[0]
	}
	return id
}

// read brings the index in line with the slices of a Snapshot.
func (x *endpoints) read(all []Slice, networks map[string]network) {
	x.pass++
	x.touched, x.stale = map[segmentAddr]bool{}, map[string]bool{}
	before := x.order
	x.order = make([]*knownSlice, len(all))
	for i := range all {
		n := networks[all[i].Network]
		if !n.served || len(all[i].Endpoints) == 0 {
			continue
		}
		id := identify(&all[i])
		var known *knownSlice
		if i < len(before) && before[i] != nil && before[i].id == id { // mostly, and cheaper than to hash it
			known = before[i]
		} else if known = x.slices[id]; known == nil {
			known = &knownSlice{Slice: all[i], id: id, segment: n.Segment}
			x.slices[id] = known
			x.add(known)
		}
		known.pass, x.order[i] = x.pass, known
	}
	for id, known := range x.slices {
		if known.pass != x.pass {
			delete(x.slices, id)
			x.remove(known)
		}
	}
}

func (x *endpoints) add(s *knownSlice) {
	of := serviceNetwork{s.Service, s.Network}
	x.byService[of] = append(x.byService[of], s)
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		at := segmentAddr{s.segment, e.Addr}
		x.claims[at] = append(x.claims[at], claimant{e, s})
		x.touch(at)
	}
}

func (x *endpoints) remove(s *knownSlice) {
	of := serviceNetwork{s.Service, s.Network}
	x.byService[of] = slices.DeleteFunc(x.byService[of], func(other *knownSlice) bool { return other == s })
	if len(x.byService[of]) == 0 {
		delete(x.byService, of)
	}
	for i := range s.Endpoints {
		at := segmentAddr{s.segment, s.Endpoints[i].Addr}
		x.touch(at) // while its claimants are known
		x.claims[at] = slices.DeleteFunc(x.claims[at], func(c claimant) bool { return c == claimant{&s.Endpoints[i], s} })
		if len(x.claims[at]) == 0 {
			delete(x.claims, at)
		}
	}
}

// touch notes that something about an address has changed, and whom that may concern.
func (x *endpoints) touch(at segmentAddr) {
	x.touched[at] = true
	for _, c := range x.claims[at] {
		x.stale[c.of.Service] = true
	}
}

// holder gives the endpoint whose address it is; nil if nobody has it.
func (x *endpoints) holder(at segmentAddr) *Endpoint {
	var held *Endpoint
	for _, c := range x.claims[at] {
		if held == nil || compareHolders(c.Endpoint, held) < 0 {
			held = c.Endpoint
		}
	}
	return held
}

// compareHolders orders endpoints that have one address: a pod that terminates gives way, as its address may have been
// allocated again; otherwise names decide, because all nodes must decide alike.
func compareHolders(a, b *Endpoint) int {
	return cmp.Or(
		compareBool(a.Terminating, b.Terminating),
		cmp.Compare(a.Pod.Namespace, b.Pod.Namespace),
		cmp.Compare(a.Pod.Name, b.Pod.Name),
		cmp.Compare(a.Pod.UID, b.Pod.UID),
		slices.Compare(a.MAC[:], b.MAC[:]),
		cmp.Compare(a.Node, b.Node),
	)
}

// compareBool orders false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
