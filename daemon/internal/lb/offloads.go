// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"slices"
	"strings"
)

// refused tells whether a master does to frames what the programs cannot live with, and reports it. Half of the packets would
// be lost, without a trace: so none is served until it is off.
func (p *pass) refused(object string, master Link, kind string) bool {
	if kind == "macvlan" && slices.Contains(master.Offloads, L2Forward) {
		p.report(object, ReasonMasterOffload, "on node %s its master %s has l2-fwd-offload on, which hands frames to pods past the "+
			"programs, so nothing is served there: ethtool -K %s l2-fwd-offload off", p.in.Node, master.Name, master.Name)
		return true
	}
	var names, remedies []string
	for _, l := range p.receivers(master) {
		if slices.Contains(l.Offloads, LRO) {
			names = append(names, l.Name)
			remedies = append(remedies, "ethtool -K "+l.Name+" lro off")
		}
	}
	if names == nil {
		return false
	}
	p.report(object, ReasonMasterOffload, "on node %s large receive offload is on for %s, from where its master %s gets packets, and "+
		"what it joins cannot be sent on to pods of other nodes, so nothing is served there: %s", p.in.Node,
		strings.Join(names, ", "), master.Name, strings.Join(remedies, "; "))
	return true
}

// receivers gives the interfaces below a master that receive, sorted by name: itself, if there is none below it. What lies
// above others never joins segments: there the feature only says what is wanted of them.
func (p *pass) receivers(master Link) []Link {
	found := map[int]Link{}
	seen := map[int]bool{}
	var walk func(Link)
	walk = func(l Link) {
		if seen[l.Index] {
			return
		}
		seen[l.Index] = true
		if len(l.Lower) == 0 {
			found[l.Index] = l
		}
		for _, index := range l.Lower {
			walk(p.linksByIndex[index])
		}
	}
	walk(master)
	out := make([]Link, 0, len(found))
	for _, l := range found {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b Link) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
