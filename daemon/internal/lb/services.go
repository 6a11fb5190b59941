// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/sluice-lb/sluice/daemon/internal/vip"
)

// claim is who uses a frontend.
type claim struct{ service, network string }

// compileServices adds the VIPs and frontends of every Service that has a VIP on a network of this node. Services come in
// order of their names, so that of two claims on one frontend the same wins on every node.
func (p *pass) compileServices() {
	p.claims = make(map[frontendKey]claim)
	p.vips = make(map[station4]int)
	sorted := slices.SortedFunc(slices.Values(p.in.Services), func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	for _, svc := range sorted {
		vips := slices.SortedFunc(slices.Values(svc.VIPs), func(a, b ServiceVIP) int {
			return cmp.Or(cmp.Compare(a.Network, b.Network), a.Addr.Compare(b.Addr))
		})
		for _, v := range vips {
			p.compileVIP(svc, v)
		}
	}
}

func (p *pass) compileVIP(svc Service, v ServiceVIP) {
	name := svc.Namespace + "/" + svc.Name
	object := "Service " + name
	addr := v.Addr.Unmap()
	n, known := p.networks[v.Network]
	switch {
	case !known:
		p.report(object, ReasonUnknownNetwork, "VIP %s is on network %s, but there is no NetworkAttachmentDefinition of that "+
			"name whose plugin chain holds sluice", addr, v.Network)
		return
	case !n.served || n.link.Index == 0:
		return // the network has an issue, or this node is not on it
	case p.inUse(object, addr, n):
		return
	}
	endpoints := p.usableEndpoints(name, n, addr)
	for _, port := range svc.Ports {
		if port.Protocol != TCP && port.Protocol != UDP {
			p.report(object, ReasonUnsupportedProtocol, "port %d has %s, which is not served in this version: only TCP and UDP "+
				"are", port.Port, port.Protocol)
			continue
		}
		key := frontendKey{n.link.Index, port.Protocol, netip.AddrPortFrom(addr, port.Port)}
		if first, taken := p.claims[key]; taken {
			p.report(object, ReasonFrontendTaken, "VIP %s with %s port %d on network %s is served for Service %s on network %s "+
				"already: use another port or another address", addr, port.Protocol, port.Port, n.Name, first.service,
				first.network)
			continue
		}
		p.claims[key] = claim{name, n.Name}
		p.addVIP(addr, n)
		p.state.Frontends = append(p.state.Frontends, Frontend{
			Service: name, Network: n.Name, Master: key.master, Protocol: key.protocol, Addr: key.addr,
			Clients:  svc.Clients,
			Backends: p.backends(endpoints, port, n),
		})
	}
}

// inUse tells whether a VIP is the address of a station that answers for itself.
func (p *pass) inUse(object string, addr netip.Addr, n network) bool {
	const remedy = "take it out of the NetworkAttachmentDefinition's vips, or out of the range that pods get"
	if held, ok := p.holders[segmentAddr{n.Segment, addr}]; ok {
		p.report(object, ReasonAddressInUse, "VIP %s on network %s is the address of Pod %s: "+remedy, addr, n.Name, held.Pod)
		return true
	}
	if pod, ok := p.podAddrs[station4{n.link.Index, addr}]; ok {
		p.report(object, ReasonAddressInUse, "VIP %s on network %s is the address of Pod %s: "+remedy, addr, n.Name, pod)
		return true
	}
	for _, own := range n.link.Addrs {
		if own.Unmap() == addr {
			p.report(object, ReasonAddressInUse, "VIP %s on network %s is set on interface %s of node %s: take it off the "+
				"interface", addr, n.Name, n.link.Name, p.in.Node)
			return true
		}
	}
	return false
}

// addVIP adds an address once, however many frontends have it.
func (p *pass) addVIP(addr netip.Addr, n network) {
	at := station4{n.link.Index, addr}
	if _, ok := p.vips[at]; ok {
		return
	}
	p.vips[at] = len(p.state.VIPs)
	ranked := vip.Rank(addr, p.candidates[n.Segment])
	p.state.VIPs = append(p.state.VIPs, VIP{
		Master: n.link.Index, Segment: n.Segment, Addr: addr, Candidates: ranked,
		Owned: len(ranked) > 0 && ranked[0] == p.in.Node,
	})
}

// target is an endpoint with the target ports of its slice.
type target struct {
	*Endpoint
	ports []ServicePort
}

// usableEndpoints gives the endpoints of a Service on a network that can be backends of a VIP: those of its family.
func (p *pass) usableEndpoints(service string, n network, vip netip.Addr) []target {
	var out []target
	for _, slice := range p.endpoints[serviceNetwork{service, n.Name}] {
		for i := range slice.Endpoints {
			if e := &slice.Endpoints[i]; e.Addr.Is4() == vip.Is4() && p.usable(e, n.Segment) {
				out = append(out, target{e, slice.Ports})
			}
		}
	}
	return out
}

// backends gives the backends of one Service port, sorted by address and port.
func (p *pass) backends(targets []target, port ServicePort, n network) []Backend {
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
	return out
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
