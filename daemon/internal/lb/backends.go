// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"net/netip"
	"slices"
)

// backends gives the backends of one Service port, sorted by address and port, and what is wrong with them.
func (p *pass) backends(targets []target, port ServicePort, n network) (_ []Backend, issues []Issue) {
	defer func(reported *[]Issue) { p.issues = reported }(p.issues)
	p.issues = &issues
	type candidate struct {
		Backend
		serving, terminating bool
	}
	found := make([]candidate, 0, len(targets))
	fresh := false // a backend is serving and does not terminate
	for _, t := range targets {
		i := slices.IndexFunc(t.ports, func(tp ServicePort) bool {
			return tp.Name == port.Name && tp.Protocol == port.Protocol
		})
		if i < 0 {
			continue
		}
		mac := p.macOf(t.Endpoint, n)
		found = append(found, candidate{
			Backend: Backend{
				Addr: netip.AddrPortFrom(t.Addr, t.ports[i].Port), MAC: mac, Node: t.Node, Pod: t.Pod.String(),
				Local: t.Node == p.in.Node && p.isAttached(t.Endpoint, n.link.Index, mac),
			},
			serving: t.Serving, terminating: t.Terminating,
		})
		fresh = fresh || t.Serving && !t.Terminating
	}
	// While its controller moves an endpoint between slices, it may be in two. What says most for it comes first.
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(a.Addr.Compare(b.Addr), compareBool(b.serving, a.serving), compareBool(a.terminating, b.terminating))
	})
	found = slices.CompactFunc(found, func(a, b candidate) bool { return a.Addr == b.Addr })

	out := make([]Backend, 0, len(found))
	for _, c := range found {
		b := c.Backend
		// A pod that terminates takes new flows only while no other does (Kubernetes KEP-1669).
		drains := !c.serving || c.terminating && fresh
		gone := b.Node == p.in.Node && !b.Local
		switch {
		case drains && gone:
			// Nobody is there for its flows. Without it, clients are sent elsewhere, where TCP resets what it does not know.
			continue
		case drains:
			b.State = BackendDraining
		case gone:
			b.State = BackendUnattached
			p.reportUnattached(b, n.link.Index, c.terminating)
		default:
			b.State = BackendActive
		}
		out = append(out, b)
	}
	return out, issues
}

// reportUnattached says that a backend of this node is not attached to it. A pod that terminates loses its attachment
// first and its endpoint later: that is no fault.
func (p *pass) reportUnattached(b Backend, master int, terminating bool) {
	if terminating {
		return
	}
	p.report("Pod "+b.Pod, ReasonNotAttached, "address %s with MAC %s is an endpoint on node %s, but no pod interface below %s "+
		"has both: delete the pod, so that it is attached again", b.Addr.Addr(), b.MAC, b.Node, p.linksByIndex[master].Name)
}

// preferLocal leaves new flows to the attached pods of this node, if it has any. Without, it sends them to all others: it
// owns no VIP of the Service then, but has pods that are clients, and clients on the wire that do not know the new owner yet.
func preferLocal(backends []Backend, node string) []Backend {
	if !slices.ContainsFunc(backends, func(b Backend) bool { return b.Local && b.State == BackendActive }) {
		return backends
	}
	var out []Backend
	for _, b := range backends {
		if b.State == BackendUnattached && b.Node == node {
			continue // it has no place in the table here, and nobody is there for its flows
		}
		if b.State.Open() && !b.Local {
			b.State = BackendElsewhere
		}
		out = append(out, b)
	}
	return out
}
