// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/sluice-lb/sluice/daemon/internal/kube/apiserver"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

// Reasons of events that tell of something good. They are stable, like those of issues.
const reasonAnnouncing = "Announcing"

// events tell the users of objects what happens to them. An object is named as in lb.Issue.
type events interface {
	Warn(object, reason, message string)
	Tell(object, reason, message string)
}

// noEvents is for those who have nobody to tell.
type noEvents struct{}

func (noEvents) Warn(_, _, _ string) {}
func (noEvents) Tell(_, _, _ string) {}

// factsOf gives what peers must know of this node once a State is applied: on which segments it can serve.
func factsOf(state lb.State) apiserver.Facts {
	facts := apiserver.Facts{MACs: map[string]ether.MAC{}}
	for _, m := range state.Masters {
		if _, taken := facts.MACs[m.Segment]; taken {
			continue // two masters on one segment: the first by index
		}
		facts.MACs[m.Segment] = m.MAC
		if m.Up {
			facts.Ready = append(facts.Ready, m.Segment)
		}
	}
	return facts
}

// warn tells of an issue on its object, if this node is the one to tell: what concerns a Service, a slice or another node is
// found by the controller or by all agents alike.
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
