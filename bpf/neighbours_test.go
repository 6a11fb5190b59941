// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"

	"github.com/sluice-lb/sluice/bpf/bpftest"
	"github.com/sluice-lb/sluice/internal/ether"
)

var (
	noMAC  ether.MAC
	noAddr = netip.IPv4Unspecified()
	// neighbour is a station on the segment that asks.
	neighbour = bpftest.Pod{MAC: other, Addr: netip.MustParseAddr("192.0.2.50")}
	// probe is the same before it has an address (RFC 5227 section 2.1; RFC 4862 section 5.4).
	probe = bpftest.Pod{MAC: other, Addr: noAddr}
	self  = bpftest.Pod{MAC: bpftest.Master, Addr: node}
)

// ask is a request to all: by ARP, or by a Neighbor Solicitation.
func (f family) ask(by bpftest.Pod, about netip.Addr) bpftest.Packet {
	if f == ipv6 {
		return bpftest.NeighborSolicitation(by.MAC, f.addr(by.Addr), f.addr(about))
	}
	return bpftest.ARP(bpftest.ARPRequest, by.MAC, by.Addr, noMAC, about)
}

// tell is the reply that the station with that MAC would send. In IPv6 it goes to all nodes where nobody has an address
// to get it at.
func (f family) tell(to bpftest.Pod, about netip.Addr, mac ether.MAC) bpftest.Packet {
	switch {
	case f == ipv4:
		return bpftest.ARP(bpftest.ARPReply, mac, about, to.MAC, to.Addr).To(to.MAC)
	case to.Addr == noAddr:
		return bpftest.NeighborAdvertisement(mac, f.addr(about), allNodes, bpftest.NDOverride)
	}
	const flags = bpftest.NDSolicited | bpftest.NDOverride
	return bpftest.NeighborAdvertisement(mac, f.addr(about), f.addr(to.Addr), flags).To(to.MAC)
}

// announce is what a station says to all, asked by nobody.
func (f family) announce(about netip.Addr, mac ether.MAC) bpftest.Packet {
	if f == ipv6 {
		return bpftest.NeighborAdvertisement(mac, f.addr(about), allNodes, bpftest.NDOverride)
	}
	return bpftest.ARP(bpftest.ARPReply, mac, about, ether.Broadcast, about)
}

// answered is the reason of a request that is answered.
func (f family) answered() string { return map[family]string{ipv4: "ARP_REPLY", ipv6: "ND_REPLY"}[f] }

// neighbourPaths are requests at both hooks: who answers for what, to whom.
func neighbourPaths(f family) map[string]path {
	owned, foreign := f.ask(neighbour, vip), f.ask(neighbour, peerVIP)
	answer := f.tell(neighbour, vip, bpftest.Master)
	ignored := func(in bpftest.Packet) path { return one(ingress(in, bpftest.PassOn, "MISS")) }
	left := func(in bpftest.Packet) path { return one(egress(in, bpftest.PassOn, "MISS")) }
	answered := func(in, out bpftest.Packet) path {
		return one(ingress(in, bpftest.ToWire, f.answered()).becomes(out))
	}
	told := func(by bpftest.Pod, about netip.Addr, mac ether.MAC) path {
		return one(egress(f.ask(by, about), bpftest.ToPods, f.answered()).becomes(f.tell(by, about, mac)))
	}
	return map[string]path{
		"from the wire, owned": one(
			ingress(owned, bpftest.ToWire, f.answered()).becomes(answer),
			egress(answer, bpftest.PassOn, "FORWARDED").called("the reply leaves").throughMaster()),
		"from the wire, not owned":                ignored(foreign),
		"from the wire, for a pod":                ignored(f.ask(neighbour, alice.Addr)),
		"from the wire, for the node":             ignored(f.ask(neighbour, node)),
		"from the wire, for a stranger":           ignored(f.ask(neighbour, nobody)),
		"probe":                                   answered(f.ask(probe, vip), f.tell(probe, vip, bpftest.Master)),
		"unicast, a neighbour verifies its entry": answered(owned.To(bpftest.Master), answer),
		"unicast to another station":              ignored(owned.To(peer)),
		"a reply is not answered":                 ignored(f.tell(self, vip, other)),
		"announcement":                            ignored(f.announce(vip, peer)),
		"our own announcement leaves":             left(f.announce(vip, bpftest.Master)),

		"local pod, owned":     told(alice, vip, bpftest.Master),
		"local pod, not owned": told(alice, peerVIP, bpftest.Master),
		"local pod asks the last owner": one(
			egress(f.ask(alice, vip).To(peer), bpftest.ToPods, f.answered()).becomes(f.tell(alice, vip, bpftest.Master))),
		"local pod, for the node":    told(alice, node, bpftest.Master),
		"local pod, for its sibling": left(f.ask(alice, bob.Addr)),
		"local pod, for a stranger":  left(f.ask(alice, nobody)),
		"local pod probes a VIP": one(
			egress(f.ask(bpftest.Pod{MAC: alice.MAC, Addr: noAddr}, vip), bpftest.ToPods, f.answered()).
				becomes(f.tell(bpftest.Pod{MAC: alice.MAC, Addr: noAddr}, vip, bpftest.Master))),
		"local pod probes its own address": left(f.ask(bpftest.Pod{MAC: alice.MAC, Addr: noAddr}, alice.Addr)),

		"node, for a VIP":      told(self, vip, bpftest.Master),
		"node, for its pod":    told(self, alice.Addr, alice.MAC),
		"node, for itself":     left(f.ask(bpftest.Pod{MAC: bpftest.Master, Addr: noAddr}, node)),
		"node, for a stranger": left(f.ask(self, nobody)),
		"pod's reply to the node is turned back": one(
			egress(f.tell(self, alice.Addr, alice.MAC), bpftest.ToPods, "TURNED_BACK")),
	}
}

// arpPaths are requests as only ARP can make them.
func arpPaths() map[string]path {
	owned, answer := ipv4.ask(neighbour, vip), ipv4.tell(neighbour, vip, bpftest.Master)
	ignored := func(in bpftest.Packet) path { return one(ingress(in, bpftest.PassOn, "MISS")) }
	padded := func(p bpftest.Packet, from, to ether.MAC) bpftest.Packet {
		return bpftest.Frame(bpftest.EtherARP, append(p.Bytes()[14:], make([]byte, 18)...)).From(from).To(to)
	}
	return map[string]path{
		"announcement as a request": ignored(ipv4.ask(bpftest.Pod{MAC: peer, Addr: vip}, vip)),
		"our own announcement as a request leaves": one(
			egress(ipv4.ask(bpftest.Pod{MAC: bpftest.Master, Addr: vip}, vip), bpftest.PassOn, "MISS")),
		"padded to the least frame": one(
			ingress(padded(owned, other, ether.Broadcast), bpftest.ToWire, "ARP_REPLY").
				becomes(padded(answer, bpftest.Master, other))),
		"other hardware type":   ignored(owned.ARPField(1, 6)),
		"other protocol type":   ignored(owned.ARPField(2, 0x86)),
		"other hardware length": ignored(owned.ARPField(4, 8)),
		"other protocol length": ignored(owned.ARPField(5, 16)),
		"other operation":       ignored(owned.ARPField(7, 8)),
		"cut off": one(
			ingress(owned.Truncate(41), bpftest.PassOn, "MALFORMED"),
			egress(ipv4.ask(alice, vip).Truncate(41), bpftest.PassOn, "MALFORMED")),
	}
}
