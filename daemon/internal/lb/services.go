// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"net/netip"
	"slices"
)

// claim is who uses a frontend.
type claim struct{ service, network string }

// compileServices adds the VIPs and frontends of every Service that has a VIP on a network of this node. Of two claims on
// one frontend the older Service's wins, on every node: Services that share a VIP come with ports apart, so that the younger
// is the one that changed, mostly.
func (p *pass) compileServices() {
	p.claims = make(map[frontendKey]claim)
	p.vips = make(map[station4]*vipUse)
	sorted := slices.SortedFunc(slices.Values(p.in.Services), func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.UID, b.UID))
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
		p.useVIP(addr, n, svc, endpoints)
		f := Frontend{
			Service: name, Network: n.Name, Master: key.master, Protocol: key.protocol, Addr: key.addr,
			Clients: svc.Clients, Local: svc.Local,
			Backends: p.backends(endpoints, port, n),
		}
		if f.Local {
			f.Backends = preferLocal(f.Backends, p.in.Node)
		}
		p.state.Frontends = append(p.state.Frontends, f)
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
		p.report(object, ReasonAddressInUse, "VIP %s on network %s is the address of Pod %s: "+remedy, addr, n.Name, pod.pod)
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
