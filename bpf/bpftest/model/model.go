// SPDX-License-Identifier: Apache-2.0

// Package model owns a second account of the datapath, in plain Go: what one node does with a frame, and what it
// remembers of it. It is written from the design and the RFCs, so that it can contradict the programs; it must not import
// them. Only tests may import it. Where the design says nothing it follows the programs: see docs/model.md.
//
// A model has no clock: all that it remembers is young. It has no sockets either: a pod confirms a connection by its
// SYN-ACK alone.
package model

import (
	"net/netip"

	"github.com/sluice-lb/sluice/internal/ether"
)

// Direction names a hook of the master.
type Direction string

// The directions.
const (
	Ingress Direction = "ingress" // from the wire, or from a sibling pod
	Egress  Direction = "egress"  // from a local pod, from the node, or sent on by Ingress
)

// Action is what becomes of a frame.
type Action string

// The actions.
const (
	PassOn Action = "pass on"          // none of ours: the next program decides
	OK     Action = "ok"               // goes on its way
	Drop   Action = "drop"             // ends here
	ToWire Action = "redirect to wire" // leaves by the master
	ToPods Action = "redirect to pods" // enters by the master
)

// Kind is what an address on the master is to this node.
type Kind uint8

// The kinds. An address that the node does not know has none.
const (
	VIP     Kind = iota + 1 // a Service's
	PodAddr                 // a local pod's
	Own                     // the node's own
)

// Address is what the node knows of an address.
type Address struct {
	Kind Kind
	MAC  ether.MAC // who answers for it on this node
}

// Frontend is where a service listens.
type Frontend struct {
	Proto uint8
	At    netip.AddrPort
}

// Service is what stands behind a frontend.
type Service struct {
	ID    uint32
	Table []uint32             // slot to backend; empty: no backend takes new flows
	Local map[ether.MAC]uint32 // local pod to backend

	Restricted bool           // only clients in Ranges may open flows
	Ranges     []netip.Prefix // of both families
	Keeps      bool           // a client's flows go to one backend

	ids  []uint32 // backends in the order in which they were added
	node *Node
}

// Backend is one endpoint of a service.
type Backend struct {
	At     netip.AddrPort
	MAC    ether.MAC
	Local  bool // its pod is attached to this node
	Leaves bool // it takes no new flows
}

// Node is one node, seen from one of its masters: what it was told, and what it remembers.
type Node struct {
	Master    ether.MAC
	Addresses map[netip.Addr]Address
	Owned     map[netip.Addr]bool // VIPs for which this node answers ARP and ND from the wire
	Pods      map[ether.MAC]bool
	Peers     map[ether.MAC]bool // masters of other nodes
	Apart     bool               // a pod is not in bridge mode: it meets its siblings on the wire alone
	Private   map[ether.MAC]bool // pods that shall not talk to their siblings
	// IPVlan: the node's pods are ipvlans. What they and the node send to the MAC that they share does not leave: the
	// kernel brings it straight to a sibling, or to ingress.
	IPVlan bool
	// Routed: and they are of a mode in which they hear no ARP and no Neighbor Discovery. The node answers for them.
	Routed   bool
	Services map[Frontend]*Service
	Backends map[uint32]Backend

	Flows     Flows // confirmed TCP
	HalfOpen  Flows // TCP that no one has confirmed
	Datagrams Flows // UDP
	Choices   map[Tuple]Choice
	Kept      map[Client]uint32 // the backend of a client's last new flow

	// Exhausted are the kinds of answers whose limit is reached. A model has no clock, so the test says so.
	Exhausted map[Answer]bool
	// Silent makes Services without backends drop what they would refuse.
	Silent bool

	// Slot places a new flow in a table of that size; all nodes agree on it.
	Slot func(proto uint8, src, dst netip.AddrPort, size uint32) uint32
	// ClientSlot is Slot where a client keeps its backend.
	ClientSlot func(client netip.Addr, size uint32) uint32
	// Port offers a port for a pod that talks to itself. Which one is left to chance, so the test tells.
	Port func() uint16

	backends uint32 // last id given
}

// Frame is a frame at a hook.
type Frame struct {
	Dir     Direction
	Arrived bool // it came in by the master, whatever the hook
	Bytes   []byte
}

// Result is what came of a frame. A priority tag is no longer in the frame but beside it, where the kernel keeps it.
type Result struct {
	Action Action
	Reason string // as in enum reason, without its prefix
	Frame  []byte // meaningless after Drop
}

// New gives a node that knows nothing but its master's MAC.
func New(master ether.MAC) *Node {
	n := &Node{
		Master:    master,
		Addresses: make(map[netip.Addr]Address),
		Owned:     make(map[netip.Addr]bool),
		Pods:      make(map[ether.MAC]bool),
		Peers:     make(map[ether.MAC]bool),
		Private:   make(map[ether.MAC]bool),
		Services:  make(map[Frontend]*Service),
		Backends:  make(map[uint32]Backend),
		Exhausted: make(map[Answer]bool),
	}
	n.Forget()
	return n
}

// Forget ends everything that packets have left behind.
func (n *Node) Forget() {
	n.Flows, n.HalfOpen, n.Datagrams = make(Flows), make(Flows), make(Flows)
	n.Choices = make(map[Tuple]Choice)
	n.Kept = make(map[Client]uint32)
}

// AddVIP makes an address a VIP, owned by this node or not.
func (n *Node) AddVIP(a netip.Addr, owned bool) {
	n.Addresses[a] = Address{Kind: VIP, MAC: n.Master}
	n.Owned[a] = owned
}

// RemoveVIP withdraws a VIP; its services stay.
func (n *Node) RemoveVIP(a netip.Addr) {
	delete(n.Addresses, a)
	delete(n.Owned, a)
}

// AddOwn makes an address the node's own.
func (n *Node) AddOwn(a netip.Addr) { n.Addresses[a] = Address{Kind: Own, MAC: n.Master} }

// AddPod attaches a pod. In macvlan's passthru mode its MAC is the master's.
func (n *Node) AddPod(mac ether.MAC, a netip.Addr) {
	n.Addresses[a] = Address{Kind: PodAddr, MAC: mac}
	n.Pods[mac] = true
}

// RemovePod detaches a pod; services may still name it.
func (n *Node) RemovePod(mac ether.MAC, a netip.Addr) {
	delete(n.Addresses, a)
	delete(n.Pods, mac)
}

// AddService makes a service with its backends; the table has one slot for each, in their order. Ids count from 1.
func (n *Node) AddService(proto uint8, at netip.AddrPort, backends ...Backend) *Service {
	s := &Service{ID: uint32(len(n.Services) + 1), Local: make(map[ether.MAC]uint32), node: n}
	for _, b := range backends {
		n.backends++
		s.ids = append(s.ids, n.backends)
		s.Table = append(s.Table, n.backends)
		s.SetBackend(len(s.ids)-1, b)
	}
	n.Services[Frontend{proto, at}] = s
	return s
}

// SetTable gives the service a new table: positions of backends.
func (s *Service) SetTable(positions ...int) {
	s.Table = nil
	for _, p := range positions {
		s.Table = append(s.Table, s.ids[p])
	}
}

// SetBackend replaces a backend under the id that it has.
func (s *Service) SetBackend(position int, b Backend) {
	s.node.Backends[s.ids[position]] = b
	if b.Local {
		s.Local[b.MAC] = s.ids[position]
	}
}

// Backend gives the backend at a position; false if it was removed.
func (s *Service) Backend(position int) (Backend, bool) {
	b, ok := s.node.Backends[s.ids[position]]
	return b, ok
}

// RemoveBackend removes a backend; table and pod may still name it.
func (s *Service) RemoveBackend(position int) { delete(s.node.Backends, s.ids[position]) }

// Step is one frame at one hook.
func (n *Node) Step(in Frame) Result {
	in.Bytes = withoutPriority(in.Bytes)
	p := &packet{Frame: in, out: append([]byte(nil), in.Bytes...)}
	p.dst, p.src = ether.MAC(in.Bytes[0:6]), ether.MAC(in.Bytes[6:12])
	action, reason := n.judge(p)
	switch none := reason == "MISS"; {
	case none && n.isolated(p):
		action, reason = Drop, "ISOLATED"
	case none && n.lost(p):
		action, reason = ToPods, "TURNED_BACK"
	case none && n.misled(p):
		action, reason = OK, "TO_NODE"
		p.setMACs(ether.MAC{3}, ether.MAC{})
	}
	if action == PassOn {
		p.out = in.Bytes
	}
	return Result{Action: action, Reason: reason, Frame: p.out}
}

func (n *Node) judge(p *packet) (Action, string) {
	kind := p.etherType()
	if isTag(kind) {
		return PassOn, "TAGGED"
	}
	if kind == etherIPv4 && !p.parseIPv4() || kind == etherIPv6 && !p.parseIPv6() {
		return PassOn, "MALFORMED"
	}
	// What ingress sent on leaves by egress, and must not be looked at twice.
	if p.Dir == Egress && p.Arrived && p.src == n.Master && p.dst != n.Master {
		return PassOn, "FORWARDED"
	}
	switch {
	case kind == etherARP:
		return n.arp(p)
	case p.version == 0 || p.onNoWire():
		return PassOn, "MISS"
	case p.isND():
		return n.nd(p)
	case n.Addresses[p.to].Kind == VIP:
		return n.toVIP(p)
	// At ingress a local pod's frames are those to its siblings; to the master they go by egress.
	case n.Addresses[p.from].Kind == PodAddr && (p.Dir == Egress || p.dst != n.Master):
		return n.fromPod(p)
	}
	return PassOn, "MISS"
}

// isolated tells whether a pod's packet is for a sibling although one of them is in private mode. Since we tell them each
// other's MACs, a switch that reflects would carry it.
func (n *Node) isolated(p *packet) bool {
	pods := p.version != 0 && n.Addresses[p.from].Kind == PodAddr && n.Pods[p.dst]
	return p.Dir == Egress && pods && (n.Private[p.src] || n.Private[p.dst])
}

// lost tells whether macvlan would let the frame out although its receiver is on this node: it keeps the node and its
// pods apart. What leaves for the master's MAC comes from some pod of this node, whatever MAC it uses.
func (n *Node) lost(p *packet) bool {
	if n.IPVlan && p.isIP() && n.Addresses[p.to].Kind == PodAddr { // in vepa mode the switch shall see it
		return false
	}
	return p.Dir == Egress && (p.dst == n.Master || p.src == n.Master && n.Pods[p.dst])
}

// passthru tells whether the kernel gives one pod all that is sent to the master's MAC.
func (n *Node) passthru() bool { return n.Pods[n.Master] && !n.IPVlan }

// misled tells whether a VIP speaks to the node, and the pod would hear it.
func (n *Node) misled(p *packet) bool {
	from, to := p.from, p.to
	if p.etherType() == etherARP {
		if p.arpOperation() != arpReply {
			return false
		}
		from, to = p.arpEnds()
	}
	return p.Dir == Ingress && n.passthru() && p.dst == n.Master &&
		n.Addresses[from].Kind == VIP && n.Addresses[to].Kind == Own
}

// isIP tells whether the packet is one for somebody's address, and not of Neighbor Discovery.
func (p *packet) isIP() bool { return p.version != 0 && !p.onNoWire() && !p.isND() }

// fromHere tells whether a pod of this node sent the frame, or the node itself.
func (n *Node) fromHere(p *packet) bool { return p.Dir == Egress || n.IPVlan && p.src == n.Master }

// back sends an answer to where the question came from.
func (n *Node) back(p *packet) Action {
	if n.fromHere(p) {
		return ToPods
	}
	return ToWire
}
