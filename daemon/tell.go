// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluice-lb/sluice/daemon/internal/kube/apiserver"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/daemon/internal/vip"
	"github.com/sluice-lb/sluice/internal/ether"
)

// Reasons of events that tell of something good. They are stable, like those of issues.
const reasonAnnouncing = "Announcing"

// factsOf gives what peers must know of this node once a State is applied: on which segments it can serve.
func factsOf(state lb.State) apiserver.Facts {
	facts := apiserver.Facts{MACs: map[string]ether.MAC{}, Addrs: map[string]netip.Addr{}}
	for _, m := range state.Masters {
		if _, taken := facts.MACs[m.Segment]; taken {
			continue // two masters on one segment: the first by index
		}
		facts.MACs[m.Segment] = m.MAC
		if m.Addr.IsValid() {
			facts.Addrs[m.Segment] = m.Addr
		}
		if m.Up {
			facts.Ready = append(facts.Ready, m.Segment)
		}
	}
	return facts
}

// warn tells of an issue on its object when it appears, if this node is the one to tell: what concerns a slice or another node
// is found by the controller or by all agents alike. For Services see warnServices.
func (p *pipeline) warn(node string, issue lb.Issue) {
	kind, _, _ := strings.Cut(issue.Object, " ")
	switch kind {
	case "Pod", "NetworkAttachmentDefinition":
		p.events.Warn(issue.Object, issue.Reason, issue.Message)
	case "Interface":
		p.events.Warn("Node "+node, issue.Reason, issue.Object+": "+issue.Message)
	case "Node":
		if issue.Object == "Node "+node {
			p.events.Warn(issue.Object, issue.Reason, issue.Message)
		}
	}
}

// warnServices tells Services of issues that only nodes find. Several nodes find most of them, and one of those tells; it does so
// once while the issue lasts, also where it comes to be the one after a while. What in.Issues has, the controller tells.
func (p *pipeline) warnServices(in lb.Snapshot, issues []lb.Issue) {
	byController := make(map[lb.Issue]bool, len(in.Issues))
	for _, issue := range in.Issues {
		byController[issue] = true
	}
	services := make(map[string]lb.Service, len(in.Services))
	told := map[lb.Issue]bool{}
	for _, issue := range issues {
		name, isService := strings.CutPrefix(issue.Object, "Service ")
		if !isService || byController[issue] {
			continue
		}
		if len(services) == 0 {
			for _, svc := range in.Services {
				services[svc.Namespace+"/"+svc.Name] = svc
			}
		}
		switch {
		case p.told[issue]:
			told[issue] = true
		case tells(in, services[name], issue):
			told[issue] = true
			p.events.Warn(issue.Object, issue.Reason, issue.Message)
		}
	}
	p.told = told
}

// tells tells whether this node is the one to tell a Service of an issue. The choice follows from what all nodes know: it is the
// first candidate of the VIP that the issue names, which owns it as a rule, or the first node by name if there is none.
func tells(in lb.Snapshot, svc lb.Service, issue lb.Issue) bool {
	at := slices.IndexFunc(svc.VIPs, func(v lb.ServiceVIP) bool { return v.Addr.Unmap() == issue.VIP })
	var candidates, all []string
	if at >= 0 {
		if issue.Reason == lb.ReasonAddressInUse && !isEndpoint(in, svc.VIPs[at].Addr) {
			return true // the node itself, or a pod of it that no Service selects: no other node knows
		}
		network := slices.IndexFunc(in.Networks, func(n lb.Network) bool { return n.Name == svc.VIPs[at].Network })
		for _, node := range in.Nodes {
			if network >= 0 && slices.Contains(node.Segments, in.Networks[network].Segment) {
				candidates = append(candidates, node.Name)
			}
		}
	}
	if len(candidates) > 0 {
		return vip.Rank(svc.VIPs[at].Addr, candidates)[0] == in.Node
	}
	for _, node := range in.Nodes {
		all = append(all, node.Name)
	}
	return len(all) > 0 && slices.Min(all) == in.Node
}

// isEndpoint tells whether an address is that of an endpoint, which all nodes know.
func isEndpoint(in lb.Snapshot, addr netip.Addr) bool {
	return slices.ContainsFunc(in.Slices, func(slice lb.Slice) bool {
		return slices.ContainsFunc(slice.Endpoints, func(e lb.Endpoint) bool { return e.Addr == addr })
	})
}

// tellOwned tells the Services of VIPs that are this node's since now.
func (p *pipeline) tellOwned(before, after lb.State) {
	was := map[vipKey]bool{}
	names := masterNames(before)
	for _, v := range before.VIPs {
		was[vipKey{v.Addr, names[v.Master].Name}] = v.Owned
	}
	names = masterNames(after)
	gained := map[vipKey]bool{}
	for _, v := range after.VIPs {
		if key := (vipKey{v.Addr, names[v.Master].Name}); v.Owned && !was[key] {
			gained[key] = true
		}
	}
	if len(gained) == 0 {
		return
	}
	type told struct {
		vipKey
		service string
	}
	known := map[told]bool{} // a Service may have several ports on a VIP
	for _, f := range after.Frontends {
		this := told{vipKey{f.Addr.Addr(), names[f.Master].Name}, f.Service}
		if !gained[this.vipKey] || known[this] {
			continue
		}
		known[this] = true
		p.events.Tell("Service "+f.Service, reasonAnnouncing,
			fmt.Sprintf("announcing %s from node %s on %s", this.addr, after.Node, this.ifname))
	}
}
