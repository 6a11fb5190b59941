// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"maps"
	"reflect"

	"github.com/sluice-lb/sluice/internal/ether"
)

// Compiler compiles like Compile, and remembers what it made of each Service and from what, so that a change costs what it
// changes. It takes a slice of a Snapshot that lies where one of the last Snapshot lay for the same: sources replace slices, they
// do not change them. It is not safe for concurrent use. The States that it returns share memory, so nobody may change them.
type Compiler struct {
	shared    shared
	pods      map[station4]local // this node's, by address
	endpoints endpoints
	services  map[serviceID]*compiled
	last      served
	pass      uint64 // how many there were
}

// shared are the facts that any Service may depend on. They change seldom: then everything is compiled anew.
type shared struct {
	node       string
	networks   map[string]network
	candidates map[string][]string
	masterMACs map[nodeSegment]ether.MAC
}

// serviceID tells Services apart, also one from another that had its name before.
type serviceID struct{ namespace, name, uid string }

// compiled is what one Service comes to, without regard to the others.
type compiled struct {
	service   Service
	frontends []ownFrontend
	issues    []Issue
	pass      uint64 // that used it last
}

// ownFrontend is a frontend as its Service wants it. Another Service may have it.
type ownFrontend struct {
	Frontend
	candidates []string // for its VIP, ranked
	nodes      []string // of the candidates, those that have endpoints for new flows
	issues     []Issue  // that count if it is served
}

// served is what all Services come to.
type served struct {
	services  int
	frontends []Frontend // sorted
	vips      []VIP      // sorted
	issues    []Issue
}

// Compile is like the function Compile.
func (c *Compiler) Compile(in Snapshot) State {
	p := newPass(in)
	p.readNetworks()
	c.readEndpoints(p)
	p.readAttachments()
	c.comparePods(p)
	p.compileMasters()
	p.compileServices(c)
	c.forget()
	return p.sorted()
}

// readEndpoints indexes the endpoints of a pass. It forgets everything if facts changed that any Service may depend on.
func (c *Compiler) readEndpoints(p *pass) {
	c.pass++
	now := shared{node: p.in.Node, networks: p.networks, candidates: p.candidates, masterMACs: p.masterMACs}
	if c.services == nil || !reflect.DeepEqual(c.shared, now) {
		c.shared, c.pods = now, nil
		c.endpoints, c.services = newEndpoints(), map[serviceID]*compiled{}
	}
	p.endpoints = &c.endpoints
	c.endpoints.read(p.in.Slices, p.networks)
}

// comparePods notes at which addresses the pods of this node are others than in the last pass.
func (c *Compiler) comparePods(p *pass) {
	for at := range changed(c.pods, p.pods) {
		for _, n := range p.networks {
			if n.served && n.link.Index == at.master {
				c.endpoints.touch(segmentAddr{n.Segment, at.addr})
			}
		}
	}
	c.pods = p.pods
}

// changed gives the keys at which two maps differ.
func changed[K, V comparable](a, b map[K]V) map[K]bool {
	out := map[K]bool{}
	if maps.Equal(a, b) {
		return out
	}
	for k, v := range a {
		if other, ok := b[k]; !ok || other != v {
			out[k] = true
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			out[k] = true
		}
	}
	return out
}

// compile gives what a Service comes to, from memory if nothing that it depends on has changed.
func (c *Compiler) compile(p *pass, svc Service) (_ *compiled, fresh bool) {
	id := serviceID{svc.Namespace, svc.Name, svc.UID}
	known := c.services[id]
	if known == nil || known.pass == c.pass || !known.service.equal(svc) || c.concerns(p, svc) {
		known, fresh = p.compileService(svc), true
		c.services[id] = known
	}
	known.pass = c.pass
	return known, fresh
}

// concerns tells whether what has changed about endpoints and pods concerns a Service.
func (c *Compiler) concerns(p *pass, svc Service) bool {
	if c.endpoints.stale[svc.Namespace+"/"+svc.Name] {
		return true
	}
	for _, v := range svc.VIPs {
		if c.endpoints.touched[segmentAddr{p.networks[v.Network].Segment, v.Addr.Unmap()}] {
			return true
		}
	}
	return false
}

// forget drops what only this pass needs, and the Services that it did not see.
func (c *Compiler) forget() {
	c.endpoints.touched, c.endpoints.stale = nil, nil
	maps.DeleteFunc(c.services, func(_ serviceID, s *compiled) bool { return s.pass != c.pass })
}
