// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/sluice-lb/sluice/internal/ether"
)

// Operations of ARP.
const (
	arpRequest = 1
	arpReply   = 2
)

// arpOperation is the operation of a packet about Ethernet and IPv4, by the lengths of their addresses too; else 0.
func (p *packet) arpOperation() uint16 {
	const length = 28
	if len(p.Bytes) < ethernetLen+length || !bytes.Equal(p.Bytes[ethernetLen:][:6], []byte{0, 1, 8, 0, 6, 4}) {
		return 0
	}
	return binary.BigEndian.Uint16(p.Bytes[ethernetLen+6:])
}

// arpEnds gives the protocol addresses of who sends and who is meant.
func (p *packet) arpEnds() (sender, target netip.Addr) {
	b := p.Bytes[ethernetLen:]
	return netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
}

// arp answers a request (RFC 826). From the wire, for VIPs that this node owns; from its own pods and the node itself,
// for every VIP, and for each other where macvlan keeps them apart.
func (n *Node) arp(p *packet) (Action, string) {
	const length = 28
	if len(p.Bytes) < ethernetLen+length {
		return PassOn, "MALFORMED"
	}
	b := p.out[ethernetLen:]
	if p.arpOperation() != arpRequest {
		return PassOn, "MISS"
	}
	asker := ether.MAC(b[8:14])
	sender, target := p.arpEnds()
	mac, ok := n.answer(p, target)
	if !ok || sender == target { // an announcement asks nothing (RFC 5227 section 3)
		return PassOn, "MISS"
	}
	binary.BigEndian.PutUint16(b[6:], arpReply)
	copy(b[18:28], b[8:18]) // who asked is the target now
	copy(b[8:14], mac[:])
	addr := target.As4()
	copy(b[14:18], addr[:])
	p.setMACs(asker, mac)
	return n.back(p), "ARP_REPLY"
}

// answer gives the MAC that the asker must use for an address; false if others answer.
func (n *Node) answer(p *packet, about netip.Addr) (ether.MAC, bool) {
	a := n.Addresses[about]
	const group = 1 // the bit of a MAC: broadcast is the usual one, and hosts answer to others too
	switch forUs := p.dst[0]&group != 0 || p.dst == n.Master; {
	case p.Dir == Ingress && !forUs:
		return a.MAC, false
	case !n.fromHere(p):
		return a.MAC, a.Kind == VIP && n.Owned[about] || a.Kind == PodAddr && n.Routed
	}
	switch a.Kind {
	case VIP:
		return a.MAC, true
	case PodAddr: // in bridge mode pods hear each other; nobody is told of himself (RFC 5227 section 2.1)
		return a.MAC, a.MAC != p.src && (p.src == n.Master || n.Apart)
	case Own:
		return a.MAC, p.src != n.Master
	}
	return ether.MAC{}, false
}
