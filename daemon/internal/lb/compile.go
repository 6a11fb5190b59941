// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sluice-lb/sluice/internal/ether"
)

// Compile gives what the datapath of in.Node shall do. It depends on in alone, not on the order of anything in it. What it
// cannot use becomes an Issue on the object that is wrong; everything else is served.
func Compile(in Snapshot) State { return new(Compiler).Compile(in) }

// frontendKey is what a packet says of the frontend that it is for.
type frontendKey struct {
	master   int
	protocol Protocol
	addr     netip.AddrPort
}

// pass is one run of Compile: the Snapshot, the State that grows from it, and the indexes that join the two.
type pass struct {
	in    Snapshot
	state State

	linksByIndex map[int]Link
	linksByName  map[string]Link
	networks     map[string]network // by namespace/name; the unserved too
	segments     map[string]string  // segment by master's name
	pods         map[station4]local // this node's, by address
	kinds        map[int]masterKind // what the pods of a master make of it
	endpoints    *endpoints
	candidates   map[string][]string // names of nodes, by segment
	masterMACs   map[nodeSegment]ether.MAC
	issues       *[]Issue // where report adds
}

// station4 is an address on a master.
type station4 struct {
	master int
	addr   netip.Addr
}

func newPass(in Snapshot) *pass {
	p := &pass{
		in: in,
		state: State{
			Node: in.Node, Masters: []Master{}, Pods: []Pod{}, Peers: []Peer{}, VIPs: []VIP{}, Frontends: []Frontend{},
			Issues: slices.Clone(in.Issues),
		},
		linksByIndex: make(map[int]Link, len(in.Links)),
		linksByName:  make(map[string]Link, len(in.Links)),
		candidates:   make(map[string][]string),
		masterMACs:   make(map[nodeSegment]ether.MAC),
	}
	p.issues = &p.state.Issues
	for _, link := range in.Links {
		p.linksByIndex[link.Index] = link
		p.linksByName[link.Name] = link
	}
	for _, node := range in.Nodes {
		for _, segment := range node.Segments {
			p.candidates[segment] = append(p.candidates[segment], node.Name)
		}
		for segment, mac := range node.MACs {
			p.masterMACs[nodeSegment{node.Name, segment}] = mac
		}
	}
	return p
}

// report adds an issue. Several finds of one fault may report it; sorted drops the repetitions.
func (p *pass) report(object, reason, format string, args ...any) {
	*p.issues = append(*p.issues, Issue{Object: object, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// reportVIP is report for an issue that is about one VIP.
func (p *pass) reportVIP(vip netip.Addr, object, reason, format string, args ...any) {
	p.report(object, reason, format, args...)
	(*p.issues)[len(*p.issues)-1].VIP = vip
}

// sorted gives the State in the order that makes equal Snapshots compile to equal States.
func (p *pass) sorted() State {
	s := p.state
	slices.SortFunc(s.Masters, func(a, b Master) int { return cmp.Compare(a.Index, b.Index) })
	slices.SortFunc(s.Pods, func(a, b Pod) int { return cmp.Compare(a.Attachment, b.Attachment) })
	slices.SortFunc(s.Peers, func(a, b Peer) int {
		return cmp.Or(cmp.Compare(a.Master, b.Master), cmp.Compare(a.Node, b.Node))
	})
	slices.SortFunc(s.Issues, func(a, b Issue) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Message, b.Message))
	})
	s.Issues = slices.Compact(s.Issues)
	if s.Issues == nil {
		s.Issues = []Issue{}
	}
	return s
}
