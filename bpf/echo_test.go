// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"

	"github.com/sluice-lb/sluice/bpf/bpftest"
	"github.com/sluice-lb/sluice/internal/ether"
)

// echo is a request, echoed its answer.
func echo(by, of netip.Addr) bpftest.Packet {
	return bpftest.ICMP(by, of, bpftest.EchoRequest).Rest(0x12340001).Payload("as sent").TTL(57)
}

func echoed(by, of netip.Addr) bpftest.Packet {
	return bpftest.ICMP(of, by, bpftest.EchoReply).Rest(0x12340001).Payload("as sent").From(bpftest.Master)
}

// noStations are addresses that nobody answers to, because they are no single station's.
func noStations(f family) map[string]netip.Addr {
	if f == ipv6 {
		return map[string]netip.Addr{"none": netip.IPv6Unspecified(), "group": allNodes, "loopback": netip.IPv6Loopback()}
	}
	return map[string]netip.Addr{
		"none": noAddr, "this network": netip.MustParseAddr("0.1.2.3"), "loopback": netip.MustParseAddr("127.0.0.1"),
		"group": netip.MustParseAddr("224.0.0.1"), "reserved": netip.MustParseAddr("240.0.0.1"),
		"broadcast": netip.MustParseAddr("255.255.255.255"),
	}
}

// from gives a packet a source that no family translates.
func from(a netip.Addr, f family, p bpftest.Packet) bpftest.Packet {
	return f.packet(p).Src(addrPort(a, 40000))
}

// echoPaths are echo requests to a VIP, and what looks like them.
func echoPaths(f family) map[string]path {
	in, out := echo(client.Addr(), vip).From(router).To(bpftest.Master), echoed(client.Addr(), vip).To(router)
	bobs, toBob := echo(bob.Addr, vip).From(bob.MAC).To(bpftest.Master), echoed(bob.Addr, vip).To(bob.MAC)
	foreign := echo(client.Addr(), peerVIP).From(router).To(bpftest.Master)
	others, toOthers := echo(bob.Addr, peerVIP).From(bob.MAC).To(bpftest.Master), echoed(bob.Addr, peerVIP).To(bob.MAC)
	nodes := echo(node, vip).From(bpftest.Master).To(bpftest.Master)
	headers := func(p bpftest.Packet) bpftest.Packet { return behindHeaders(p.IPOptions(1, 1, 1, 0)) }
	unsupported := func(p bpftest.Packet) path {
		return path{steps: bothWays(p, bpftest.Drop, "UNSUPPORTED_PROTOCOL")}
	}
	exhausted := func(kind bpftest.Answer) func(w *world) { return func(w *world) { w.Allow(kind, false) } }
	all := map[string]path{
		"owner":                              one(ingress(in, bpftest.ToWire, "ECHO_REPLY").becomes(out)),
		"not owner":                          one(ingress(foreign, bpftest.Drop, "NOT_OWNER")),
		"a local pod":                        one(egress(bobs, bpftest.ToPods, "ECHO_REPLY").becomes(toBob)),
		"a local pod, of another node's VIP": one(egress(others, bpftest.ToPods, "ECHO_REPLY").becomes(toOthers)),
		"the node": one(
			egress(nodes, bpftest.ToPods, "ECHO_REPLY").becomes(echoed(node, vip).To(bpftest.Master))),
		"with options, or extension headers": one(
			ingress(headers(in), bpftest.ToWire, "ECHO_REPLY").becomes(headers(out))),
		"sent to a pod": one(ingress(in.To(alice.MAC), bpftest.Drop, "UNSUPPORTED_PROTOCOL")),
		"flooded":       one(ingress(in.To(other), bpftest.PassOn, "FLOODED")),
		"to all":        one(egress(bobs.To(ether.Broadcast), bpftest.Drop, "UNSUPPORTED_PROTOCOL")),
		"fragment":      {steps: bothWays(in.Fragment(0, true), bpftest.Drop, "FRAGMENT")},
		"of a reply":    unsupported(out.Src(client).Dst(addrPort(vip, 0)).From(router).To(bpftest.Master)),
		"too many":      {setup: exhausted(bpftest.Echoes), steps: bothWays(in, bpftest.Drop, "ANSWER_LIMIT")},
		"too many others": {
			setup: func(w *world) { exhausted(bpftest.Resets)(w); exhausted(bpftest.Unreachables)(w) },
			steps: []step{ingress(in, bpftest.ToWire, "ECHO_REPLY").becomes(out)},
		},
		"of another code": unsupported(in.ICMPCode(1)),
	}
	for name, a := range noStations(f) {
		all["from "+name] = unsupported(from(a, f, in))
	}
	return all
}
