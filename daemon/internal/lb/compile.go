// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sluice-lb/sluice/daemon/internal/maglev"
	"github.com/sluice-lb/sluice/internal/ether"
)

// tableSeed is the same on every node and in every release: nodes must build the same tables.
const tableSeed = 0

// Compile gives what the datapath of in.Node shall do. It depends on in alone, not on the order of anything in it. What it
// cannot use becomes an Issue on the object that is wrong; everything else is served.
func Compile(in Snapshot) State { return new(Compiler).Compile(in) }

// Compiler compiles like Compile, and remembers the Maglev tables of its last State: a table is built again only when the
// backends that share it change. It is not safe for concurrent use. The States that it returns share tables, so nobody may
// change them.
type Compiler struct {
	tables map[frontendKey]table
}

// frontendKey is what a packet says of the frontend that it is for.
type frontendKey struct {
	master   int
	protocol Protocol
	addr     netip.AddrPort
}

// table is a Maglev table and what it was built from.
type table struct {
	backends []slot
	slots    []uint32
}

// slot is what a table depends on: the backends' identities, positions, and which of them take new flows.
type slot struct {
	addr netip.AddrPort
	used bool
}

// Compile is like the function Compile.
func (c *Compiler) Compile(in Snapshot) State {
	p := newPass(in)
	p.readNetworks()
	p.readEndpoints()
	p.readAttachments()
	p.compileMasters()
	p.compileServices()
	p.compileVIPs()
	p.compileTables(c)
	return p.sorted()
}

// pass is one run of Compile: the Snapshot, the State that grows from it, and the indexes that join the two.
type pass struct {
	in    Snapshot
	state State

	linksByIndex map[int]Link
	linksByName  map[string]Link
	networks     map[string]network  // by namespace/name; the unserved too
	segments     map[string]string   // segment by master's name
	attached     map[station][]local // this node's pods, by where their frames come from
	kinds        map[int]masterKind  // what the pods of a master make of it
	podAddrs     map[station4]owner  // this node's pods' addresses
	holders      map[segmentAddr]*Endpoint
	endpoints    map[serviceNetwork][]*Slice
	candidates   map[string][]string // names of nodes, by segment
	masterMACs   map[nodeSegment]ether.MAC
	claims       map[frontendKey]claim
	vips         map[station4]*vipUse
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
	p.state.Issues = append(p.state.Issues, Issue{Object: object, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// compileTables gives each frontend its table, from c where the backends are those of the last time.
func (p *pass) compileTables(c *Compiler) {
	tables := make(map[frontendKey]table, len(p.state.Frontends))
	var have []slot
	for i := range p.state.Frontends {
		f := &p.state.Frontends[i]
		have = have[:0]
		for _, b := range f.Backends {
			have = append(have, slot{b.Addr, b.State.Open()})
		}
		key := frontendKey{f.Master, f.Protocol, f.Addr}
		t, ok := c.tables[key]
		if !ok || !slices.Equal(t.backends, have) {
			t = table{slices.Clone(have), buildTable(have)}
		}
		tables[key] = t
		f.Table = t.slots
	}
	c.tables = tables
}

// buildTable spreads flows over the backends that take new ones. Those that do not leave no trace in the others' shares.
func buildTable(backends []slot) []uint32 {
	var ids []string
	var positions []uint32
	for i, b := range backends {
		if b.used {
			ids = append(ids, b.addr.String())
			positions = append(positions, uint32(i))
		}
	}
	slots := maglev.Build(tableSeed, ids)
	for i, id := range slots {
		slots[i] = positions[id]
	}
	return slots
}

// sorted gives the State in the order that makes equal Snapshots compile to equal States.
func (p *pass) sorted() State {
	s := p.state
	slices.SortFunc(s.Masters, func(a, b Master) int { return cmp.Compare(a.Index, b.Index) })
	slices.SortFunc(s.Pods, func(a, b Pod) int { return cmp.Compare(a.Attachment, b.Attachment) })
	slices.SortFunc(s.Peers, func(a, b Peer) int {
		return cmp.Or(cmp.Compare(a.Master, b.Master), cmp.Compare(a.Node, b.Node))
	})
	slices.SortFunc(s.VIPs, func(a, b VIP) int {
		return cmp.Or(cmp.Compare(a.Master, b.Master), a.Addr.Compare(b.Addr))
	})
	slices.SortFunc(s.Frontends, func(a, b Frontend) int {
		return cmp.Or(cmp.Compare(a.Master, b.Master), a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol))
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
