// SPDX-License-Identifier: Apache-2.0

package model

import "net/netip"

// Client is a client of a service that keeps its clients with one backend.
type Client struct {
	Addr    netip.Addr
	Service uint32
}

// lets tells whether a client may open flows.
func (s *Service) lets(client netip.Addr) bool {
	for _, r := range s.Ranges {
		if r.Contains(client) {
			return true
		}
	}
	return !s.Restricted
}

// place gives the backend of a new flow; 0 if the service has none.
func (n *Node) place(t Tuple, s *Service) uint32 {
	if !s.Keeps {
		return n.fromTable(t, s)
	}
	c := Client{t.Src.Addr(), s.ID}
	if b, ok := n.Backends[n.Kept[c]]; ok && !b.Leaves {
		return n.Kept[c]
	}
	id := n.fromTable(t, s)
	if id != 0 {
		n.Kept[c] = id
	}
	return id
}

// fromTable gives the backend that every node's table has for a flow; 0 if there is none. One that keeps its clients
// looks at the client alone.
func (n *Node) fromTable(t Tuple, s *Service) uint32 {
	size := uint32(len(s.Table))
	switch {
	case size == 0:
		return 0
	case s.Keeps:
		return s.Table[n.ClientSlot(t.Src.Addr(), size)]
	}
	return s.Table[n.Slot(t.Proto, t.Src, t.Dst, size)]
}
