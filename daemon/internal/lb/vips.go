// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"net/netip"
	"slices"

	"github.com/sluice-lb/sluice/daemon/internal/vip"
)

// vipUse is a VIP and what the Services that share it need of its owner.
type vipUse struct {
	addr   netip.Addr
	n      network
	locals []localUse
}

// localUse is a Service with externalTrafficPolicy Local on a VIP.
type localUse struct {
	service string
	nodes   []string // candidates that have an endpoint of it; at least one
}

// useVIP notes that a Service has a frontend on a VIP.
func (p *pass) useVIP(addr netip.Addr, n network, svc Service, endpoints []target) {
	at, service := station4{n.link.Index, addr}, svc.Namespace+"/"+svc.Name
	use, ok := p.vips[at]
	if !ok {
		use = &vipUse{addr: addr, n: n}
		p.vips[at] = use
	}
	if !svc.Local || slices.ContainsFunc(use.locals, func(l localUse) bool { return l.service == service }) {
		return
	}
	if nodes := nodesThatServe(endpoints, p.candidates[n.Segment]); len(nodes) > 0 {
		use.locals = append(use.locals, localUse{service, nodes})
	}
}

// nodesThatServe gives the candidates that have an endpoint for new flows: a ready one or, where no node has any, one that
// terminates and still serves.
func nodesThatServe(endpoints []target, candidates []string) []string {
	var ready, leaving []string
	for _, e := range endpoints {
		switch {
		case !e.Serving || !slices.Contains(candidates, e.Node):
		case e.Terminating:
			leaving = append(leaving, e.Node)
		default:
			ready = append(ready, e.Node)
		}
	}
	if len(ready) == 0 {
		ready = leaving
	}
	slices.Sort(ready)
	return slices.Compact(ready)
}

// compileVIPs ranks the candidates of each VIP, by what is the same on every node.
func (p *pass) compileVIPs() {
	for at, use := range p.vips {
		ranked := vip.Rank(use.addr, p.owners(use))
		p.state.VIPs = append(p.state.VIPs, VIP{
			Master: at.master, Segment: use.n.Segment, Addr: use.addr, Candidates: ranked,
			Owned: len(ranked) > 0 && ranked[0] == p.in.Node,
		})
	}
}

// owners gives the nodes that may own a VIP: with Services of policy Local, those that have endpoints of most of them.
// Services without endpoints on any candidate do not count: whoever owns the VIP refuses their clients, or sends them on.
func (p *pass) owners(use *vipUse) []string {
	candidates := p.candidates[use.n.Segment]
	score := func(node string) int {
		n := 0
		for _, l := range use.locals {
			if _, has := slices.BinarySearch(l.nodes, node); has {
				n++
			}
		}
		return n
	}
	most := 0
	for _, node := range candidates {
		most = max(most, score(node))
	}
	if most < len(use.locals) {
		for _, l := range use.locals {
			p.report("Service "+l.service, ReasonNoCommonNode, "spec.externalTrafficPolicy: Local: VIP %s on network %s is shared "+
				"by Services of this policy, and no node has endpoints of all of them, so packets for some go on to another node: "+
				"give them VIPs of their own, or run their pods on the same nodes", use.addr, use.n.Name)
		}
	}
	return slices.DeleteFunc(slices.Clone(candidates), func(node string) bool { return score(node) < most })
}
