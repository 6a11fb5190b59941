// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"

	"github.com/sluice-lb/sluice/internal/ether"
)

// Tuple is a packet's own, as it arrives.
type Tuple struct {
	Proto    uint8
	Src, Dst netip.AddrPort
}

// Flow is what is remembered of one direction of a connection: how a packet of that direction leaves.
type Flow struct {
	Src, Dst   netip.AddrPort
	MAC        ether.MAC // new destination MAC; zero: the packet keeps its own
	Reply      bool      // from the pod
	Hairpin    bool      // the client has another address: it is the backend itself, or has its MAC
	Fin        bool      // this direction has sent its FIN
	PeerFin    bool      // the other direction has sent its FIN
	Reset      bool      // either side has sent a RST
	SynAckSeen bool      // the pod's SYN-ACK passed here
	Expect     uint32    // the ACK number that confirms it
}

// firstDynamicPort is where the ports begin that nobody listens on (RFC 6335 section 6).
const firstDynamicPort = 49152

// Flows is a memory of flows; both directions of each are in it.
type Flows map[Tuple]*Flow

// Choice is what this node chose for a flow whose pod lives elsewhere.
type Choice struct {
	Backend     uint32
	Established bool // the client has sent more than SYNs
}

// mirror is the tuple of the other direction.
func (f *Flow) mirror(proto uint8) Tuple { return Tuple{proto, f.Dst, f.Src} }

// closed tells whether nothing more is to come, so that a SYN opens a new connection.
func (f *Flow) closed() bool { return f.Reset || f.Fin && f.PeerFin }

// find gives the flow of a tuple and the memory that holds it.
func (n *Node) find(t Tuple) (*Flow, Flows) {
	memories := []Flows{n.Flows, n.HalfOpen}
	if t.Proto == protoUDP {
		memories = []Flows{n.Datagrams}
	}
	for _, m := range memories {
		if f := m[t]; f != nil {
			return f, m
		}
	}
	return nil, nil
}

// remove forgets both directions.
func (m Flows) remove(t Tuple) {
	delete(m, m[t].mirror(t.Proto))
	delete(m, t)
}

// note lets a flow and its mirror learn from a packet.
func (n *Node) note(p *packet, t Tuple, f *Flow, m Flows) {
	if t.Proto != protoTCP {
		return
	}
	other := m[f.mirror(t.Proto)]
	switch {
	case p.opens() && !f.Reply: // a client that opens does not close, whatever else it says
	case p.flags&rst != 0: // whatever else it says is not read (RFC 9293 section 3.10.7)
		f.Reset, other.Reset = true, true
	case p.flags&fin != 0:
		f.Fin, other.PeerFin = true, true
	}
	if n.HalfOpen[t] != f {
		return
	}
	switch {
	case f.Reply && p.flags&(syn|ack) == syn|ack:
		other.SynAckSeen, other.Expect = true, p.seq+1
	case !f.Reply && p.flags&(ack|rst) == ack && f.SynAckSeen && p.ackno == f.Expect:
		// The client has got the pod's SYN-ACK: nobody made up its address.
		f.SynAckSeen, f.Expect = false, 0
		mirror := f.mirror(t.Proto)
		n.Flows[t], n.Flows[mirror] = f, other
		delete(n.HalfOpen, t)
		delete(n.HalfOpen, mirror)
	}
}

// deliver lets the packet leave as its flow says.
func (n *Node) deliver(p *packet, f *Flow) (Action, string) {
	p.rewrite(f.Src, f.Dst)
	if f.Reply {
		return n.steer(p, f), "UNNAT"
	}
	return n.steer(p, f), "LOCAL"
}

// steer sends the packet to where its flow leads. What stays on this node would be lost on the wire.
func (n *Node) steer(p *packet, f *Flow) Action {
	if !f.MAC.IsZero() {
		p.setMACs(f.MAC, p.src)
	}
	to := ether.MAC(p.out[0:6])
	if p.Dir == Egress && (!f.Reply || f.Hairpin || to == n.Master || n.Apart && n.Pods[to]) {
		return ToPods
	}
	return OK
}

// open remembers a new flow to a local pod and delivers its first packet.
func (n *Node) open(p *packet, t Tuple, b Backend) (Action, string) {
	forward := &Flow{Src: t.Src, Dst: b.At, MAC: b.MAC}
	reply := &Flow{Src: t.Dst, Dst: t.Src, Reply: true}
	if t.Src.Addr() == b.At.Addr() || n.IPVlan && n.fromHere(p) ||
		n.passthru() && p.Dir == Egress && n.Addresses[p.from].Kind == Own {
		// The client must look like another host: to itself; to a sibling whose replies would not come by here; and to a
		// pod that cannot tell the node's MAC from its own.
		forward.Src = netip.AddrPortFrom(t.Dst.Addr(), n.Port())
		forward.Hairpin, reply.Hairpin, reply.MAC = true, true, b.MAC
		if f, _ := n.find(forward.mirror(t.Proto)); f != nil || forward.Src.Port() < firstDynamicPort {
			return Drop, "NO_PORT"
		}
	}
	// The pod sees one tuple, which belongs to one VIP at a time.
	back := forward.mirror(t.Proto)
	if f, m := n.find(back); f != nil {
		if !f.closed() {
			return Drop, "COLLISION"
		}
		m.remove(back)
	}
	delete(n.Choices, t)
	m := n.HalfOpen
	if t.Proto == protoUDP {
		m = n.Datagrams
	}
	m[t], m[back] = forward, reply
	n.note(p, t, forward, m)
	action, _ := n.deliver(p, forward)
	return action, "NEW_FLOW"
}
