// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

// dave and erin are ipvlans: both have the master's MAC, as the node has. finn is one of another node, and has its master's.
var (
	dave = ipvlan("192.0.2.30")
	erin = ipvlan("192.0.2.31")
	finn = bpftest.Pod{MAC: peer, Addr: netip.MustParseAddr("192.0.2.130"), Netns: bpftest.NoNetns}

	toDave   = addrPort(vip, 90)
	toErin   = addrPort(vip, 91)
	toFinn   = addrPort(vip, 92)
	toEither = addrPort(vip, 93)     // dave or erin
	toAny    = addrPort(vip, 94)     // finn, by the table; dave and erin are draining
	peerFinn = addrPort(peerVIP, 92) // behind a VIP that the peer owns
)

func ipvlan(addr string) bpftest.Pod {
	return bpftest.Pod{
		MAC: bpftest.Master, Addr: netip.MustParseAddr(addr), Netns: bpftest.NoNetns, Mode: bpftest.IPVlan,
	}
}

// onIPVlan makes the master one of ipvlans.
func onIPVlan(w *world) {
	w.RemovePod(w.pod(alice))
	w.RemovePod(w.pod(bob))
	w.AddPeer(peer)
	w.AddPod(dave)
	w.AddPod(erin)
	local := func(p bpftest.Pod) bpftest.Backend { return bpftest.Backend{Pod: p, Port: target, Local: true} }
	remote := bpftest.Backend{Pod: finn, Port: target}
	for _, proto := range []uint8{bpftest.ProtoTCP, bpftest.ProtoUDP} {
		w.AddService(proto, toDave, local(dave))
		w.AddService(proto, toErin, local(erin))
		w.AddService(proto, toFinn, remote)
		w.AddService(proto, peerFinn, remote)
		w.AddService(proto, toEither, local(dave), local(erin))
		w.AddService(proto, toAny, remote, local(dave), local(erin)).SetTable(0)
	}
}

// ipvlanPaths are packets on a master whose pods are ipvlans, but for those of its own clients to its own pods.
func ipvlanPaths(f family) map[string]path {
	own := func(p bpftest.Packet) bpftest.Packet { return p.From(bpftest.Master).To(bpftest.Master) }
	opens := fromClient(toDave, "S")
	answer := bpftest.TCP(dave.At(target), client, "S.").From(bpftest.Master).To(router)
	far := own(bpftest.TCP(dave.At(40000), toFinn, "S"))
	sent := far.To(peer)
	// Of two clients' ports, one falls to each of the pods.
	ports := map[netip.Addr]uint16{}
	for port := uint16(40000); len(ports) < 2; port++ {
		slot := bpftest.Slot(bpftest.ProtoTCP, f.at(netip.AddrPortFrom(client.Addr(), port)), f.at(toEither), 2)
		ports[[]netip.Addr{dave.Addr, erin.Addr}[slot]] = port
	}
	chosen := func(p bpftest.Pod) step {
		in := fromClient(toEither, "S").Src(addrPort(client.Addr(), ports[p.Addr])).From(peer)
		return ingress(in, bpftest.OK, "NEW_FLOW").becomes(in.Dst(p.At(target)))
	}
	stray := fromClient(toAny, "S").From(peer)
	return map[string]path{
		"a client's packet is balanced here": with(onIPVlan,
			ingress(opens, bpftest.OK, "NEW_FLOW").becomes(opens.Dst(dave.At(target))),
			egress(answer, bpftest.OK, "UNNAT").becomes(answer.Src(toDave))),
		"a client's packet goes on to a remote pod": with(onIPVlan,
			ingress(fromClient(toFinn, "S"), bpftest.ToWire, "REMOTE").
				becomes(fromClient(toFinn, "S").From(bpftest.Master).To(peer))),
		"a pod is client of a remote pod, straight at ingress": with(onIPVlan,
			ingress(far, bpftest.ToWire, "REMOTE").becomes(sent),
			egress(sent, bpftest.PassOn, "FORWARDED").throughMaster(),
			ingress(far.Dst(peerFinn), bpftest.ToWire, "REMOTE").becomes(sent.Dst(peerFinn)).called("whoever owns the VIP")),
		"a pod is client of a remote pod, by egress":          with(onIPVlan, egress(far, bpftest.OK, "REMOTE").becomes(sent)),
		"a peer's packet is for the pod that the table gives": with(onIPVlan, chosen(dave), chosen(erin)),
		"a peer's packet that the table gives to another node is for any pod here": with(onIPVlan,
			ingress(stray, bpftest.OK, "NEW_FLOW").becomes(stray.Dst(erin.At(target)))),
		"a peer's packet goes no further": with(onIPVlan,
			ingress(fromClient(toFinn, "S").From(peer), bpftest.Drop, "NOT_SELECTED")),
		"a pod verifies its entry for a VIP, straight at ingress": with(onIPVlan,
			ingress(f.ask(dave, vip).To(bpftest.Master), bpftest.ToPods, f.answered()).
				becomes(f.tell(dave, vip, bpftest.Master)),
			ingress(f.ask(dave, peerVIP).To(bpftest.Master), bpftest.ToPods, f.answered()).
				becomes(f.tell(dave, peerVIP, bpftest.Master)).called("whoever owns it")),
		"a pod asks for a VIP": with(onIPVlan,
			egress(f.ask(dave, peerVIP), bpftest.ToPods, f.answered()).becomes(f.tell(dave, peerVIP, bpftest.Master))),
		"a pod asks for its sibling, and for the node": with(onIPVlan,
			egress(f.ask(dave, erin.Addr), bpftest.PassOn, "MISS"),
			egress(f.ask(dave, node), bpftest.PassOn, "MISS")),
		"the wire asks for a pod, which answers itself": with(onIPVlan,
			ingress(f.ask(neighbour, dave.Addr), bpftest.PassOn, "MISS")),
		"the wire asks for a pod in mode l3, which cannot": with(func(w *world) {
			onIPVlan(w)
			w.AddPod(in(bpftest.IPVlanL3, dave))
		},
			ingress(f.ask(neighbour, dave.Addr), bpftest.ToWire, f.answered()).
				becomes(f.tell(neighbour, dave.Addr, bpftest.Master)),
			ingress(f.ask(neighbour, nobody), bpftest.PassOn, "MISS").called("for nobody"),
			ingress(f.ask(neighbour, node), bpftest.PassOn, "MISS").called("for the node"),
			egress(f.ask(bpftest.Pod{MAC: bpftest.Master, Addr: node}, dave.Addr), bpftest.PassOn, "MISS").called("the node")),
		"the node asks for a pod": with(onIPVlan,
			egress(f.ask(bpftest.Pod{MAC: bpftest.Master, Addr: node}, dave.Addr), bpftest.PassOn, "MISS")),
		"pods in vepa mode talk by way of the switch": with(onIPVlan,
			egress(own(bpftest.TCP(dave.At(40000), erin.At(80), "S")), bpftest.PassOn, "MISS"),
			ingress(own(bpftest.TCP(dave.At(40000), erin.At(80), "S")), bpftest.PassOn, "MISS").called("which reflects")),
		"what a pod sends to the node's MAC is turned back": with(onIPVlan,
			egress(own(bpftest.TCP(dave.At(40000), addrPort(node, 22), "S")), bpftest.ToPods, "TURNED_BACK")),
		"a stranger's packet with another MAC": with(onIPVlan,
			ingress(opens.To(other), bpftest.PassOn, "FLOODED")),
	}
}

// What ipvlans send to each other and to the node never comes by the master: for the clients of its node, the backend must
// seem to be elsewhere.
func TestClientsOfTheirOwnNodesIPVlansGetAnotherAddress(t *testing.T) {
	hooks := map[string]func(bpftest.Packet, bpftest.Action, string) step{"ingress": ingress, "egress": egress}
	clients := map[string]netip.Addr{"a sibling": erin.Addr, "the node": node, "the pod itself": dave.Addr, "one behind the node": client.Addr()}
	eachFamily(t, func(t *testing.T, f family) {
		for hook, at := range hooks {
			delivered := map[string]bpftest.Action{"ingress": bpftest.OK, "egress": bpftest.ToPods}[hook]
			for name, addr := range clients {
				t.Run(name+" at "+hook, func(t *testing.T) {
					w := newWorld(t, f, bpftest.Config{})
					onIPVlan(w)
					who := addrPort(addr, 40000)
					in := bpftest.TCP(who, toDave, "S").From(bpftest.Master).To(bpftest.Master)
					port := w.mustHairpin(t, at(in, delivered, "NEW_FLOW"), dave)
					out := in.Src(addrPort(vip, port)).Dst(dave.At(target))
					back := bpftest.TCP(dave.At(target), addrPort(vip, port), "S.").From(bpftest.Master).To(bpftest.Master)
					w.mustSteps(t,
						at(in, delivered, "LOCAL").becomes(out).called("again"),
						at(back, delivered, "UNNAT").becomes(back.Src(toDave).Dst(who)).called("reply"))
				})
			}
		}
	})
}

// Two clients with one source port must never meet in the backend.
func TestTwoClientsOfAnIPVlanWithOneSourcePort(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		for name, packet := range map[string]func(from, to netip.AddrPort) bpftest.Packet{
			"TCP": func(from, to netip.AddrPort) bpftest.Packet { return bpftest.TCP(from, to, "S") },
			"UDP": bpftest.UDP,
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, f, bpftest.Config{})
				onIPVlan(w)
				owner := map[uint16]netip.AddrPort{}
				for _, who := range []netip.Addr{erin.Addr, node, dave.Addr} {
					in := packet(addrPort(who, 40000), toDave).From(bpftest.Master).To(bpftest.Master)
					port := w.mustHairpin(t, ingress(in, bpftest.OK, "NEW_FLOW"), dave)
					if other, taken := owner[port]; taken {
						t.Fatalf("%s and %s both got port %d", other, who, port)
					}
					owner[port] = addrPort(who, 40000)
				}
				for port, who := range owner {
					back := packet(dave.At(target), addrPort(vip, port)).From(bpftest.Master).To(bpftest.Master)
					w.mustStep(t, ingress(back, bpftest.OK, "UNNAT").becomes(back.Src(toDave).Dst(who)).called(who.String()))
				}
			})
		}
	})
}
