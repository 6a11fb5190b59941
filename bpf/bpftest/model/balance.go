// SPDX-License-Identifier: Apache-2.0

package model

// forUs tells whether a switch meant the frame for this node. What is at egress comes from this node.
func (n *Node) forUs(p *packet) bool { return p.Dir == Egress || p.dst == n.Master || n.Pods[p.dst] }

// toVIP balances.
func (n *Node) toVIP(p *packet) (Action, string) {
	switch {
	case !n.forUs(p):
		return PassOn, "FLOODED"
	case !p.walk():
		return PassOn, "MALFORMED"
	case p.fragment:
		return Drop, "FRAGMENT"
	case p.isICMP():
		return n.icmpToVIP(p)
	case p.proto != protoTCP && p.proto != protoUDP:
		return Drop, "UNSUPPORTED_PROTOCOL"
	case !p.parsePorts():
		return PassOn, "MALFORMED"
	}
	t := p.tuple()
	if f, m := n.find(t); f != nil {
		if !p.opens() || !f.closed() || f.Reply {
			n.note(p, t, f, m)
			return n.deliver(p, f)
		}
		m.remove(t)
	}
	s := n.Services[Frontend{t.Proto, t.Dst}]
	if s == nil {
		return Drop, "NO_SERVICE"
	}
	if n.chosen(p) {
		return n.chosenByOwner(p, t, s)
	}
	return n.choose(p, t, s)
}

// chosen tells whether an owner has put the MAC of one of our pods into the frame. Where a pod has the master's, clients
// write the same; then only what comes from a peer's master was chosen.
func (n *Node) chosen(p *packet) bool {
	return p.Dir == Ingress && n.Pods[p.dst] && (p.dst != n.Master || n.Peers[p.src])
}

// chosenByOwner is the backend's role.
func (n *Node) chosenByOwner(p *packet, t Tuple, s *Service) (Action, string) {
	if !s.lets(t.Src.Addr()) {
		return Drop, "SOURCE"
	}
	id, ok := n.meant(p, t, s)
	if !ok {
		return Drop, "NOT_SELECTED"
	}
	b, ok := n.Backends[id]
	if !ok {
		return Drop, "NO_BACKEND"
	}
	return n.open(p, t, b)
}

// meant gives the pod that the owner meant. ipvlans cannot be told by their MAC: there the choice is made again, and if that
// gives none of this node's pods, because the owner knew other ones, any of them will do.
func (n *Node) meant(p *packet, t Tuple, s *Service) (uint32, bool) {
	if n.IPVlan {
		if id := n.place(t, s); n.Backends[id].Local {
			return id, true
		}
	}
	id, ok := s.Local[p.dst]
	return id, ok
}

// choose is the owner's role.
func (n *Node) choose(p *packet, t Tuple, s *Service) (Action, string) {
	c, b, ok := n.chosenBefore(p, t)
	if !ok {
		if !s.lets(t.Src.Addr()) {
			return Drop, "SOURCE"
		}
		if c.Backend = n.place(t, s); c.Backend == 0 {
			return n.refuse(p)
		}
		if b, ok = n.Backends[c.Backend]; !ok {
			return Drop, "NO_BACKEND"
		}
	}
	if b.Local {
		return n.open(p, t, b)
	}
	c.Established = c.Established || t.Proto == protoTCP && !p.opens()
	n.Choices[t] = c
	return n.sendOn(p, b)
}

// chosenBefore gives the choice that still holds for the packet.
func (n *Node) chosenBefore(p *packet, t Tuple) (Choice, Backend, bool) {
	c, ok := n.Choices[t]
	if !ok {
		return Choice{}, Backend{}, false
	}
	if t.Proto == protoTCP && !p.opens() {
		c.Established = true
		n.Choices[t] = c
	}
	b, exists := n.Backends[c.Backend]
	if !exists || c.Established && p.opens() {
		return Choice{}, Backend{}, false
	}
	return c, b, true
}

// sendOn lets the backend's node do the rest. The VIP stays the destination: the frame tells that node all it needs.
func (n *Node) sendOn(p *packet, b Backend) (Action, string) {
	p.setMACs(b.MAC, n.Master)
	if p.Dir == Ingress {
		return ToWire, "REMOTE"
	}
	return OK, "REMOTE"
}

// fromPod gives a reply the VIP that its client spoke to.
func (n *Node) fromPod(p *packet) (Action, string) {
	if !p.walk() {
		return PassOn, "MALFORMED"
	}
	if p.isICMP() {
		return n.icmpFromPod(p)
	}
	if p.proto != protoTCP && p.proto != protoUDP || p.later {
		return PassOn, "MISS"
	}
	if !p.parsePorts() {
		return PassOn, "MALFORMED"
	}
	t := p.tuple()
	f, m := n.find(t)
	switch {
	case f == nil || !f.Reply:
		return PassOn, "MISS"
	case p.Dir == Ingress && !n.Pods[p.dst]: // not to a sibling: a switch sent it back
		return PassOn, "FLOODED"
	case p.fragment:
		return Drop, "FRAGMENT"
	}
	n.note(p, t, f, m)
	return n.deliver(p, f)
}
