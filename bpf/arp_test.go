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
	body := owned.Bytes()[14:]
	return map[string]path{
		"from the wire, owned": one(ingress(owned, bpftest.ToWire, "ARP_REPLY").becomes(answer),
			egress(answer, bpftest.PassOn, "FORWARDED").called("the reply leaves").throughMaster()),
		"from the wire, not owned":                      one(ingress(foreign, bpftest.PassOn, "MISS")),
		"from the wire, for a pod":                      one(ingress(ask(neighbour, alice.Addr), bpftest.PassOn, "MISS")),
		"from the wire, for the node":                   one(ingress(ask(neighbour, node), bpftest.PassOn, "MISS")),
		"from the wire, for a stranger":                 one(ingress(ask(neighbour, nobody), bpftest.PassOn, "MISS")),
		"probe":                                         one(ingress(ask(probe, vip), bpftest.ToWire, "ARP_REPLY").becomes(tell(probe, vip, bpftest.Master))),
		"unicast, a neighbour verifies its entry":       one(ingress(owned.To(bpftest.Master), bpftest.ToWire, "ARP_REPLY").becomes(answer)),
		"unicast to another station":                    one(ingress(owned.To(peer), bpftest.PassOn, "MISS")),
		"a reply is not answered":                       one(ingress(tell(self, vip, other), bpftest.PassOn, "MISS")),
		"announcement as a request":                     one(ingress(ask(bpftest.Pod{MAC: peer, Addr: vip}, vip), bpftest.PassOn, "MISS")),
		"our own announcement leaves":                   one(egress(ask(bpftest.Pod{MAC: bpftest.Master, Addr: vip}, vip), bpftest.PassOn, "MISS")),
		"announcement as a reply":                       one(ingress(bpftest.ARP(bpftest.ARPReply, peer, vip, ether.Broadcast, vip), bpftest.PassOn, "MISS")),
		"local pod, owned":                              one(egress(ask(alice, vip), bpftest.ToPods, "ARP_REPLY").becomes(tell(alice, vip, bpftest.Master))),
		"local pod, not owned":                          one(egress(ask(alice, peerVIP), bpftest.ToPods, "ARP_REPLY").becomes(tell(alice, peerVIP, bpftest.Master))),
		"local pod verifies an entry of the last owner": one(egress(ask(alice, vip).To(peer), bpftest.ToPods, "ARP_REPLY").becomes(tell(alice, vip, bpftest.Master))),
		"local pod, for the node":                       one(egress(ask(alice, node), bpftest.ToPods, "ARP_REPLY").becomes(tell(alice, node, bpftest.Master))),
		"local pod, for its sibling":                    one(egress(ask(alice, bob.Addr), bpftest.PassOn, "MISS")),
		"local pod, for a stranger":                     one(egress(ask(alice, nobody), bpftest.PassOn, "MISS")),
		"local pod, duplicate address detection":        one(egress(ask(bpftest.Pod{MAC: alice.MAC, Addr: noAddr}, alice.Addr), bpftest.PassOn, "MISS")),
		"node, for a VIP":                               one(egress(ask(self, vip), bpftest.ToPods, "ARP_REPLY").becomes(tell(self, vip, bpftest.Master))),
		"node, for its pod":                             one(egress(ask(self, alice.Addr), bpftest.ToPods, "ARP_REPLY").becomes(tell(self, alice.Addr, alice.MAC))),
		"node, for itself":                              one(egress(ask(bpftest.Pod{MAC: bpftest.Master, Addr: noAddr}, node), bpftest.PassOn, "MISS")),
		"node, for a stranger":                          one(egress(ask(self, nobody), bpftest.PassOn, "MISS")),
		"pod's reply to the node is turned back":        one(egress(tell(self, alice.Addr, alice.MAC), bpftest.ToPods, "TURNED_BACK")),
		"padded to the least frame": one(ingress(bpftest.Frame(bpftest.EtherARP, append(body, make([]byte, 18)...)).From(other).To(ether.Broadcast),
			bpftest.ToWire, "ARP_REPLY").becomes(
			bpftest.Frame(bpftest.EtherARP, append(answer.Bytes()[14:], make([]byte, 18)...)).From(bpftest.Master).To(other))),
		"other hardware type":   one(ingress(owned.ARPField(1, 6), bpftest.PassOn, "MISS")),
		"other protocol type":   one(ingress(owned.ARPField(2, 0x86), bpftest.PassOn, "MISS")),
		"other hardware length": one(ingress(owned.ARPField(4, 8), bpftest.PassOn, "MISS")),
		"other protocol length": one(ingress(owned.ARPField(5, 16), bpftest.PassOn, "MISS")),
		"other operation":       one(ingress(owned.ARPField(7, 8), bpftest.PassOn, "MISS")),
		"cut off": one(
			ingress(owned.Truncate(41), bpftest.PassOn, "MALFORMED"),
			egress(ask(alice, vip).Truncate(41), bpftest.PassOn, "MALFORMED")),
	}
}
