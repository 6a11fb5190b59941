// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sluice-lb/sluice/daemon/internal/vip"
)

// compileServices adds the VIPs and frontends of every Service that has a VIP on a network of this node. Of two claims on
// one frontend the older Service's wins, on every node: Services that share a VIP come with ports apart, so that the younger
// is the one that changed, mostly.
func (p *pass) compileServices(c *Compiler) {
	sorted := slices.Clone(p.in.Services)
	slices.SortFunc(sorted, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.UID, b.UID))
	})
	all := make([]*compiled, 0, len(sorted))
	changed := false
	for _, svc := range sorted {
		compiled, fresh := c.compile(p, svc)
		all = append(all, compiled)
		changed = changed || fresh
	}
	if changed || len(all) != c.last.services || c.last.frontends == nil {
		c.last = p.serve(all)
	}
	p.state.VIPs, p.state.Frontends = c.last.vips, c.last.frontends
	p.state.Issues = append(p.state.Issues, c.last.issues...)
}

// compileService gives what a Service comes to for itself.
func (p *pass) compileService(svc Service) *compiled {
	out := &compiled{service: svc}
	p.issues = &out.issues
	defer func() { p.issues = &p.state.Issues }()
	vips := slices.SortedFunc(slices.Values(svc.VIPs), func(a, b ServiceVIP) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), a.Addr.Compare(b.Addr))
	})
	for _, v := range vips {
		out.frontends = append(out.frontends, p.compileVIP(svc, v)...)
	}
	return out
}

func (p *pass) compileVIP(svc Service, v ServiceVIP) []ownFrontend {
	name := svc.Namespace + "/" + svc.Name
	object := "Service " + name
	addr := v.Addr.Unmap()
	n, known := p.networks[v.Network]
	switch {
	case !known:
		p.reportVIP(addr, object, ReasonUnknownNetwork, "VIP %s is on network %s, but there is no NetworkAttachmentDefinition of that "+
			"name whose plugin chain holds sluice", addr, v.Network)
		return nil
	case !n.served || n.link.Index == 0:
		return nil // the network has an issue, or this node is not on it
	case p.inUse(object, addr, n):
		return nil
	}
	endpoints := p.usableEndpoints(name, n, addr)
	candidates := p.candidates[n.Segment]
	ranked, serving := vip.Rank(addr, candidates), nodesThatServe(endpoints, candidates)
	var out []ownFrontend
	for _, port := range svc.Ports {
		if port.Protocol != TCP && port.Protocol != UDP {
			p.report(object, ReasonUnsupportedProtocol, "port %d has %s, which is not served in this version: only TCP and UDP "+
				"are", port.Port, port.Protocol)
			continue
		}
		f := ownFrontend{candidates: ranked, nodes: serving}
		f.Frontend = Frontend{
			Service: name, Network: n.Name, Master: n.link.Index, Protocol: port.Protocol,
			Addr: netip.AddrPortFrom(addr, port.Port), Clients: svc.Clients, Local: svc.Local,
		}
		f.Backends, f.issues = p.backends(endpoints, port, n)
		if f.Local {
			f.Backends = preferLocal(f.Backends, p.in.Node)
		}
		out = append(out, f)
	}
	return out
}

// serve gives each frontend to the first Service that wants it, and each address that has one to the network of the first.
func (p *pass) serve(all []*compiled) served {
	out := served{services: len(all), frontends: make([]Frontend, 0, len(all)), vips: make([]VIP, 0, len(all))}
	claims := make(map[frontendKey]*ownFrontend, len(all))
	vips := make(map[station4]*vipUse, len(all))
	for _, s := range all {
		out.issues = append(out.issues, s.issues...)
		for i := range s.frontends {
			f := &s.frontends[i]
			key := frontendKey{f.Master, f.Protocol, f.Addr}
			if first, taken := claims[key]; taken {
				out.issues = append(out.issues, takenBy(f, first))
				continue
			}
			claims[key] = f
			out.frontends = append(out.frontends, f.Frontend)
			out.issues = append(out.issues, f.issues...)
			at := station4{f.Master, f.Addr.Addr()}
			if vips[at] == nil {
				vips[at] = &vipUse{first: f}
			}
			vips[at].note(f)
		}
	}
	for _, use := range vips {
		vip, issues := p.vipOf(use)
		out.vips, out.issues = append(out.vips, vip), append(out.issues, issues...)
	}
	slices.SortFunc(out.vips, func(a, b VIP) int {
		return cmp.Or(cmp.Compare(a.Master, b.Master), a.Addr.Compare(b.Addr))
	})
	slices.SortFunc(out.frontends, func(a, b Frontend) int {
		return cmp.Or(cmp.Compare(a.Master, b.Master), a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol))
	})
	return out
}

func takenBy(f, first *ownFrontend) Issue {
	return Issue{Object: "Service " + f.Service, Reason: ReasonFrontendTaken, VIP: f.Addr.Addr(), Message: fmt.Sprintf(
		"VIP %s with %s port %d on network %s is served for Service %s on network %s already: use another port or another "+
			"address", f.Addr.Addr(), f.Protocol, f.Addr.Port(), f.Network, first.Service, first.Network)}
}

// inUse tells whether a VIP is the address of a station that answers for itself.
func (p *pass) inUse(object string, addr netip.Addr, n network) bool {
	const remedy = "take it out of the NetworkAttachmentDefinition's vips, or out of the range that pods get"
	if held := p.endpoints.holder(segmentAddr{n.Segment, addr}); held != nil {
		p.reportVIP(addr, object, ReasonAddressInUse, "VIP %s on network %s is the address of Pod %s: "+remedy, addr, n.Name, held.Pod)
		return true
	}
	if held, ok := p.pods[station4{n.link.Index, addr}]; ok {
		p.reportVIP(addr, object, ReasonAddressInUse, "VIP %s on network %s is the address of Pod %s: "+remedy, addr, n.Name, held.pod)
		return true
	}
	for _, own := range n.link.Addrs {
		if own.Unmap() == addr {
			p.reportVIP(addr, object, ReasonAddressInUse, "VIP %s on network %s is set on interface %s of node %s: take it off the "+
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
	for _, slice := range p.endpoints.byService[serviceNetwork{service, n.Name}] {
		for i := range slice.Endpoints {
			if e := &slice.Endpoints[i]; e.Addr.Is4() == vip.Is4() && p.usable(e, n.Segment) {
				out = append(out, target{e, slice.Ports})
			}
		}
	}
	return out
}
