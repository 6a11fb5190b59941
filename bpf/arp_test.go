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
)

// ask is a broadcast request.
func ask(by bpftest.Pod, about netip.Addr) bpftest.Packet {
	return bpftest.ARP(bpftest.ARPRequest, by.MAC, by.Addr, noMAC, about)
}

// tell is the unicast reply that the station with that MAC would send.
func tell(to bpftest.Pod, about netip.Addr, mac ether.MAC) bpftest.Packet {
	return bpftest.ARP(bpftest.ARPReply, mac, about, to.MAC, to.Addr).To(to.MAC)
}

// arpPaths are requests at both hooks: who answers for what, to whom.
func arpPaths() map[string]path {
	self := bpftest.Pod{MAC: bpftest.Master, Addr: node}
	probe := bpftest.Pod{MAC: other, Addr: noAddr} // RFC 5227: the sender has no address yet
	owned, foreign := ask(neighbour, vip), ask(neighbour, peerVIP)
	answer := tell(neighbour, vip, bpftest.Master)
	ignored := func(in bpftest.Packet) path { return one(ingress(in, bpftest.PassOn, "MISS")) }
	left := func(in bpftest.Packet) path { return one(egress(in, bpftest.PassOn, "MISS")) }
	answered := func(in, out bpftest.Packet) path {
		return one(ingress(in, bpftest.ToWire, "ARP_REPLY").becomes(out))
	}
	told := func(in, out bpftest.Packet) path {
		return one(egress(in, bpftest.ToPods, "ARP_REPLY").becomes(out))
	}
	padded := func(p bpftest.Packet, from, to ether.MAC) bpftest.Packet {
		return bpftest.Frame(bpftest.EtherARP, append(p.Bytes()[14:], make([]byte, 18)...)).From(from).To(to)
	}
	return map[string]path{
		"from the wire, owned": one(
			ingress(owned, bpftest.ToWire, "ARP_REPLY").becomes(answer),
			egress(answer, bpftest.PassOn, "FORWARDED").called("the reply leaves").throughMaster()),
		"from the wire, not owned":                ignored(foreign),
		"from the wire, for a pod":                ignored(ask(neighbour, alice.Addr)),
		"from the wire, for the node":             ignored(ask(neighbour, node)),
		"from the wire, for a stranger":           ignored(ask(neighbour, nobody)),
		"probe":                                   answered(ask(probe, vip), tell(probe, vip, bpftest.Master)),
		"unicast, a neighbour verifies its entry": answered(owned.To(bpftest.Master), answer),
		"unicast to another station":              ignored(owned.To(peer)),
		"a reply is not answered":                 ignored(tell(self, vip, other)),
		"announcement as a request":               ignored(ask(bpftest.Pod{MAC: peer, Addr: vip}, vip)),
		"announcement as a reply":                 ignored(bpftest.ARP(bpftest.ARPReply, peer, vip, ether.Broadcast, vip)),
		"our own announcement leaves":             left(ask(bpftest.Pod{MAC: bpftest.Master, Addr: vip}, vip)),
		"padded to the least frame": answered(
			padded(owned, other, ether.Broadcast), padded(answer, bpftest.Master, other)),

		"local pod, owned":              told(ask(alice, vip), tell(alice, vip, bpftest.Master)),
		"local pod, not owned":          told(ask(alice, peerVIP), tell(alice, peerVIP, bpftest.Master)),
		"local pod asks the last owner": told(ask(alice, vip).To(peer), tell(alice, vip, bpftest.Master)),
		"local pod, for the node":       told(ask(alice, node), tell(alice, node, bpftest.Master)),
		"local pod, for its sibling":    left(ask(alice, bob.Addr)),
		"local pod, for a stranger":     left(ask(alice, nobody)),
		"local pod, for its own address (RFC 5227)": left(
			ask(bpftest.Pod{MAC: alice.MAC, Addr: noAddr}, alice.Addr)),

		"node, for a VIP":      told(ask(self, vip), tell(self, vip, bpftest.Master)),
		"node, for its pod":    told(ask(self, alice.Addr), tell(self, alice.Addr, alice.MAC)),
		"node, for itself":     left(ask(bpftest.Pod{MAC: bpftest.Master, Addr: noAddr}, node)),
		"node, for a stranger": left(ask(self, nobody)),
		"pod's reply to the node is turned back": one(
			egress(tell(self, alice.Addr, alice.MAC), bpftest.ToPods, "TURNED_BACK")),

		"other hardware type":   ignored(owned.ARPField(1, 6)),
		"other protocol type":   ignored(owned.ARPField(2, 0x86)),
		"other hardware length": ignored(owned.ARPField(4, 8)),
		"other protocol length": ignored(owned.ARPField(5, 16)),
		"other operation":       ignored(owned.ARPField(7, 8)),
		"cut off": one(
			ingress(owned.Truncate(41), bpftest.PassOn, "MALFORMED"),
			egress(ask(alice, vip).Truncate(41), bpftest.PassOn, "MALFORMED")),
	}
}
