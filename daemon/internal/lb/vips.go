// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"fmt"
	"slices"
)

// vipUse is a VIP, and what the Services that share it need of its owner.
type vipUse struct {
	first  *ownFrontend
	locals []localUse
}

// localUse is a Service with externalTrafficPolicy Local on a VIP.
type localUse struct {
	service string
	nodes   []string // candidates that have an endpoint of it; at least one
}

// note notes that a Service has a frontend on the VIP.
func (u *vipUse) note(f *ownFrontend) {
	known := slices.ContainsFunc(u.locals, func(l localUse) bool { return l.service == f.Service })
	if f.Local && len(f.nodes) > 0 && !known {
		u.locals = append(u.locals, localUse{f.Service, f.nodes})
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

// vipOf gives a VIP with those who may own it, ranked, by what is the same on every node.
func (p *pass) vipOf(use *vipUse) (VIP, []Issue) {
	f := use.first
	ranked, issues := use.owners()
	return VIP{
		Master: f.Master, Segment: p.networks[f.Network].Segment, Addr: f.Addr.Addr(), Candidates: ranked,
		Owned: len(ranked) > 0 && ranked[0] == p.in.Node,
	}, issues
}

// owners gives the nodes that may own a VIP: with Services of policy Local, those that have endpoints of most of them.
// Services without endpoints on any candidate do not count: whoever owns the VIP refuses their clients, or sends them on.
func (u *vipUse) owners() (ranked []string, issues []Issue) {
	if len(u.locals) == 0 {
		return u.first.candidates, nil
	}
	score := func(node string) int {
		n := 0
		for _, l := range u.locals {
			if _, has := slices.BinarySearch(l.nodes, node); has {
				n++
			}
		}
		return n
	}
	most := 0
	for _, node := range u.first.candidates {
		most = max(most, score(node))
	}
	if most < len(u.locals) {
		for _, l := range u.locals {
			vip := u.first.Addr.Addr()
			issues = append(issues, Issue{Object: "Service " + l.service, Reason: ReasonNoCommonNode, VIP: vip, Message: fmt.Sprintf(
				"spec.externalTrafficPolicy: Local: VIP %s on network %s is shared by Services of this policy, and no node has "+
					"endpoints of all of them, so packets for some go on to another node: give them VIPs of their own, or run their "+
					"pods on the same nodes", vip, u.first.Network)})
		}
	}
	// What is taken out changes nothing in the order of the others.
	return slices.DeleteFunc(slices.Clone(u.first.candidates), func(node string) bool { return score(node) < most }), issues
}
