// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/sluice-lb/sluice/bpf/bpftest"
	"github.com/sluice-lb/sluice/internal/ether"
)

// carol shares the master's MAC, as the one pod of a master does in macvlan's passthru mode. Others stay attached to it
// in some tests, which the kernel would not allow: the programs go by MACs, and must not care.
var carol = bpftest.Pod{MAC: bpftest.Master, Addr: netip.MustParseAddr("192.0.2.22"), Netns: bpftest.NoNetns}

var toCarol = addrPort(vip, 86)

// in puts a pod into another mode.
func in(mode bpftest.Mode, p bpftest.Pod) bpftest.Pod { p.Mode = mode; return p }

// keepApart puts the pods of the world into private mode: what they send each other leaves by egress.
func keepApart(w *world) {
	w.AddPod(in(bpftest.Private, alice))
	w.AddPod(in(bpftest.Private, bob))
}

// share attaches carol, and makes her a backend of a Service.
func share(w *world) {
	w.AddPod(carol)
	w.AddPeer(peer)
	for _, proto := range []uint8{bpftest.ProtoTCP, bpftest.ProtoUDP} {
		w.AddService(proto, toCarol, bpftest.Backend{Pod: carol, Port: target, Local: true})
	}
}

func with(setup func(*world), steps ...step) path { return path{setup: setup, steps: steps} }

// apartPaths are packets between the pods of a master that macvlan keeps apart, and those that must not change for it.
func apartPaths(f family) map[string]path {
	bobAlice := bpftest.TCP(bob.At(40000), toAlice, "S").From(bob.MAC).To(bpftest.Master)
	aliceBob := bpftest.TCP(alice.At(target), bob.At(40000), "S.").From(alice.MAC).To(bob.MAC)
	plain := bpftest.TCP(bob.At(40000), alice.At(80), "S").From(bob.MAC).To(alice.MAC)
	aliceNode := bpftest.TCP(alice.At(target), addrPort(node, 40000), "S.").From(alice.MAC).To(bpftest.Master)
	nodeAlice := bpftest.TCP(addrPort(node, 40000), toAlice, "S").From(bpftest.Master).To(bpftest.Master)
	ping := bpftest.IP(bob.Addr, alice.Addr, bpftest.ProtoICMP).From(bob.MAC).To(alice.MAC).Payload("12345678")
	nodePlain := bpftest.TCP(addrPort(node, 40000), alice.At(22), "S").From(bpftest.Master).To(alice.MAC)
	// ARP between them passes, as it did before we came; Neighbor Discovery is IP.
	told := map[family]step{
		ipv4: {action: bpftest.PassOn, reason: "MISS"},
		ipv6: {action: bpftest.Drop, reason: "ISOLATED"},
	}[f]
	opens := egress(bobAlice, bpftest.ToPods, "NEW_FLOW").becomes(atAlice(bobAlice)).called("opens")
	probe := f.ask(bpftest.Pod{MAC: bob.MAC, Addr: noAddr}, bob.Addr)
	ignored := func(in bpftest.Packet) path { return with(keepApart, egress(in, bpftest.PassOn, "MISS")) }
	return map[string]path{
		"a sibling's reply is turned back": with(keepApart, opens,
			egress(aliceBob, bpftest.ToPods, "UNNAT").becomes(aliceBob.Src(toAlice)),
			ingress(aliceBob.Src(toAlice), bpftest.PassOn, "MISS").called("and enters"),
			egress(bobAlice.Flags("."), bpftest.ToPods, "LOCAL").becomes(atAlice(bobAlice.Flags(".")))),
		"in bridge mode it would leave": one(opens,
			egress(aliceBob, bpftest.OK, "UNNAT").becomes(aliceBob.Src(toAlice))),
		"a reply to the wire leaves": with(keepApart, append(handshake(toAlice),
			egress(fromAlice("P."), bpftest.OK, "UNNAT").becomes(fromAlice("P.").Src(toAlice)))...),
		"a reply to the node is turned back": with(keepApart,
			egress(nodeAlice, bpftest.ToPods, "NEW_FLOW").becomes(atAlice(nodeAlice)),
			egress(aliceNode, bpftest.ToPods, "UNNAT").becomes(aliceNode.Src(toAlice))),
		"pods in private mode stay isolated": with(keepApart, opens,
			egress(plain, bpftest.Drop, "ISOLATED"),
			egress(aliceBob.Src(alice.At(22)), bpftest.Drop, "ISOLATED").called("beside a flow"),
			egress(ping, bpftest.Drop, "ISOLATED").called("whatever the protocol"),
			egress(plain.Dst(client), bpftest.Drop, "ISOLATED").called("as a gateway"),
			egress(plain.To(remi.MAC), bpftest.PassOn, "MISS").called("to one elsewhere"),
			egress(plain.To(router), bpftest.PassOn, "MISS").called("by a router"),
			egress(plain.To(bpftest.Master), bpftest.ToPods, "TURNED_BACK").called("to the node")),
		"a pod in private mode stays isolated from another": with(func(w *world) {
			w.AddPod(in(bpftest.Private, alice))
			w.AddPod(in(bpftest.VEPA, bob))
		},
			egress(plain, bpftest.Drop, "ISOLATED"),
			egress(plain.Src(alice.At(80)).Dst(bob.At(80)).From(alice.MAC).To(bob.MAC), bpftest.Drop, "ISOLATED")),
		"pods in vepa mode talk by way of the switch": with(func(w *world) {
			w.AddPod(in(bpftest.VEPA, alice))
			w.AddPod(in(bpftest.VEPA, bob))
		}, egress(plain, bpftest.PassOn, "MISS"), ingress(plain, bpftest.PassOn, "MISS")),
		"the node talks to a pod in private mode": with(keepApart,
			egress(nodePlain, bpftest.ToPods, "TURNED_BACK"),
			egress(nodePlain.Src(addrPort(nobody, 22)), bpftest.ToPods, "TURNED_BACK").called("from another address")),
		"a pod in private mode tells its sibling nothing": with(keepApart,
			egress(f.tell(bob, alice.Addr, alice.MAC), told.action, told.reason)),
		"a pod verifies its entry for its sibling": with(keepApart,
			egress(f.ask(alice, bob.Addr).To(bob.MAC), bpftest.ToPods, f.answered()).
				becomes(f.tell(alice, bob.Addr, bob.MAC))),
		"a pod asks for its sibling": with(keepApart,
			egress(f.ask(alice, bob.Addr), bpftest.ToPods, f.answered()).becomes(f.tell(alice, bob.Addr, bob.MAC))),
		"a pod asks whether its own address is taken": ignored(probe),
		"a pod announces its address":                 ignored(f.ask(bob, bob.Addr)),
		"a pod asks for one elsewhere":                ignored(f.ask(alice, remi.Addr)),
		"the wire asks for a pod": with(keepApart,
			ingress(f.ask(neighbour, alice.Addr), bpftest.PassOn, "MISS")),
		"one pod apart is enough": with(func(w *world) { w.AddPod(in(bpftest.Private, bob)) }, opens,
			egress(aliceBob, bpftest.ToPods, "UNNAT").becomes(aliceBob.Src(toAlice)),
			egress(f.ask(bob, alice.Addr), bpftest.ToPods, f.answered()).becomes(f.tell(bob, alice.Addr, alice.MAC))),
	}
}

// sharedPaths are packets on a master whose MAC a pod has too.
func sharedPaths(f family) map[string]path {
	opens := fromClient(toCarol, "S")
	atCarol := func(p bpftest.Packet) bpftest.Packet { return p.To(carol.MAC).Dst(carol.At(target)) }
	answer := bpftest.TCP(carol.At(target), client, "S.").From(carol.MAC).To(router)
	chosen := opens.From(peer)
	request := bpftest.TCP(carol.At(40000), toRemi, "S").From(carol.MAC).To(bpftest.Master)
	reply := bpftest.TCP(toRemi, carol.At(40000), "S.").From(remi.MAC).To(carol.MAC)
	datagram := bpftest.UDP(client, toRemi).From(router).To(bpftest.Master)
	return map[string]path{
		"a client's packet is balanced here": with(share,
			ingress(opens, bpftest.OK, "NEW_FLOW").becomes(atCarol(opens)),
			egress(answer, bpftest.OK, "UNNAT").becomes(answer.Src(toCarol))),
		"a client's packet goes on to a remote pod": with(share,
			ingress(fromClient(toRemi, "S"), bpftest.ToWire, "REMOTE").
				becomes(fromClient(toRemi, "S").From(bpftest.Master).To(remi.MAC)),
			ingress(datagram, bpftest.ToWire, "REMOTE").becomes(datagram.From(bpftest.Master).To(remi.MAC))),
		"a peer's packet is for the pod": with(share,
			ingress(chosen, bpftest.OK, "NEW_FLOW").becomes(atCarol(chosen)),
			ingress(chosen.Flags("."), bpftest.OK, "LOCAL").becomes(atCarol(chosen.Flags("."))),
			egress(answer, bpftest.OK, "UNNAT").becomes(answer.Src(toCarol))),
		"a peer's packet goes no further": with(share,
			ingress(chosen.Dst(toRemi), bpftest.Drop, "NOT_SELECTED"),
			ingress(fromClient(toRemi, "S"), bpftest.ToWire, "REMOTE").
				becomes(fromClient(toRemi, "S").From(bpftest.Master).To(remi.MAC)).called("chosen here"),
			ingress(chosen.Dst(toRemi), bpftest.Drop, "NOT_SELECTED").called("whatever was chosen here")),
		"a peer's packet on a master of its own is balanced": with(func(w *world) { w.AddPeer(peer) },
			ingress(chosen.Dst(toRemi), bpftest.ToWire, "REMOTE").
				becomes(fromClient(toRemi, "S").From(bpftest.Master).To(remi.MAC))),
		"a peer's MAC is no pod's": with(func(w *world) { w.AddPeer(remi.MAC) },
			ingress(fromClient(toRemi, "S").To(remi.MAC), bpftest.PassOn, "FLOODED"),
			egress(bpftest.TCP(addrPort(node, 22), remi.At(5000), "S.").From(bpftest.Master).To(remi.MAC),
				bpftest.PassOn, "MISS")),
		"the pod is client of a remote pod": with(share,
			egress(request, bpftest.OK, "REMOTE").becomes(request.To(remi.MAC)),
			ingress(reply, bpftest.PassOn, "MISS")),
		"the pod routes, by an interface that has the master's number": with(share,
			egress(request, bpftest.OK, "REMOTE").becomes(request.To(remi.MAC)).throughMaster()),
		"the pod asks for a VIP": with(share,
			egress(f.ask(carol, vip), bpftest.ToPods, f.answered()).becomes(f.tell(carol, vip, bpftest.Master)),
			egress(f.ask(carol, peerVIP), bpftest.ToPods, f.answered()).becomes(f.tell(carol, peerVIP, bpftest.Master))),
		"the pod asks whether its own address is taken": with(share,
			egress(f.ask(bpftest.Pod{MAC: carol.MAC, Addr: noAddr}, carol.Addr), bpftest.PassOn, "MISS")),
		"the wire asks for the pod": with(share, ingress(f.ask(neighbour, carol.Addr), bpftest.PassOn, "MISS")),
	}
}

// besidePaths are packets of a node whose MAC a pod in passthru mode has, which gets all that the node should get.
func besidePaths(f family) map[string]path {
	host := bpftest.Pod{MAC: bpftest.Master, Addr: node}
	nodeRemi := bpftest.TCP(addrPort(node, 40000), toRemi, "S").From(bpftest.Master).To(bpftest.Master)
	remiNode := bpftest.TCP(toRemi, addrPort(node, 40000), "S.").From(remi.MAC).To(bpftest.Master)
	// What goes up to the node looks like nothing that the pod may get.
	up := func(p bpftest.Packet) bpftest.Packet { return p.From(ether.MAC{}).To(ether.MAC{3}) }
	refused := reset("R.", 0, 101).Dst(addrPort(node, 40000)).To(bpftest.Master)
	ping := echo(node, vip).From(bpftest.Master).To(bpftest.Master)
	pong := echoed(node, vip).To(bpftest.Master)
	answered := func(about netip.Addr) bpftest.Packet { return f.tell(host, about, bpftest.Master) }
	left := func(p bpftest.Packet) step { return ingress(p, bpftest.PassOn, "MISS") }
	return map[string]path{
		"the node asks for a VIP, and hears the answer": with(share,
			egress(f.ask(host, vip), bpftest.ToPods, f.answered()).becomes(answered(vip)),
			ingress(answered(vip), bpftest.OK, "TO_NODE").becomes(up(answered(vip)))),
		"the node is client of a remote pod": with(share,
			egress(nodeRemi, bpftest.OK, "REMOTE").becomes(nodeRemi.To(remi.MAC)),
			ingress(remiNode, bpftest.OK, "TO_NODE").becomes(up(remiNode)),
			ingress(remiNode.Fragment(64, false), bpftest.OK, "TO_NODE").
				becomes(up(remiNode.Fragment(64, false))).called("whatever it is")),
		"the node pings a VIP": with(share,
			egress(ping, bpftest.ToPods, "ECHO_REPLY").becomes(pong),
			ingress(pong, bpftest.OK, "TO_NODE").becomes(up(pong))),
		"the node is told that nobody serves it": with(share,
			egress(nodeRemi.Dst(toNothing).Seq(100), bpftest.ToPods, "REFUSED").becomes(refused),
			ingress(refused, bpftest.OK, "TO_NODE").becomes(up(refused))),
		"what is for the pod, or none of ours, is left to the pod": with(share,
			left(f.tell(carol, vip, bpftest.Master)).called("its answer"),
			left(remiNode.Src(remi.At(22))).called("no VIP's"),
			left(remiNode.Dst(carol.At(40000))).called("not to the node"),
			left(f.tell(host, remi.Addr, remi.MAC)).called("the MAC of no VIP")),
		"what the pod would not get is left alone": with(share,
			left(remiNode.To(other)).called("of another station"),
			left(answered(vip).To(ether.Broadcast)).called("an answer to all")),
		"on any other master the node hears the wire": one(left(remiNode), left(answered(vip))),
		"an ipvlan's node hears the wire":             with(onIPVlan, left(remiNode), left(answered(vip))),
	}
}

// A pod that shares the master's MAC talks to itself like any other.
func TestSharingPodTalksToItself(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		share(w)
		in := bpftest.TCP(carol.At(40000), toCarol, "S").From(carol.MAC).To(bpftest.Master)
		self := addrPort(vip, w.mustHairpin(t, egress(in, bpftest.ToPods, "NEW_FLOW"), carol))
		out := in.Src(self).Dst(carol.At(target))
		back := bpftest.TCP(carol.At(target), self, "S.").From(carol.MAC).To(bpftest.Master)
		w.mustSteps(t,
			ingress(out, bpftest.PassOn, "MISS").called("enters"),
			egress(back, bpftest.ToPods, "UNNAT").becomes(back.Src(toCarol).Dst(carol.At(40000))),
			ingress(back.Src(toCarol).Dst(carol.At(40000)), bpftest.PassOn, "MISS").called("comes back"))
	})
}

// The node's stack and the pod have one MAC: the pod would never learn that of the node, so it answers the VIP instead, and its
// answer comes to the node by way of the same two hooks.
func TestNodeIsClientOfThePodThatSharesItsMAC(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		for name, packet := range map[string]func(from, to netip.AddrPort) bpftest.Packet{
			"TCP": func(from, to netip.AddrPort) bpftest.Packet { return bpftest.TCP(from, to, "S") },
			"UDP": bpftest.UDP,
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, f, bpftest.Config{})
				share(w)
				who := addrPort(node, 40000)
				in := packet(who, toCarol).From(bpftest.Master).To(bpftest.Master)
				port := w.mustHairpin(t, egress(in, bpftest.ToPods, "NEW_FLOW"), carol)
				out := in.Src(addrPort(vip, port)).Dst(carol.At(target))
				back := packet(carol.At(target), addrPort(vip, port)).From(bpftest.Master).To(bpftest.Master)
				told := back.Src(toCarol).Dst(who)
				w.mustSteps(t,
					ingress(out, bpftest.PassOn, "MISS").called("enters"),
					egress(in, bpftest.ToPods, "LOCAL").becomes(out).called("again"),
					egress(back, bpftest.ToPods, "UNNAT").becomes(told).called("reply"),
					ingress(told, bpftest.OK, "TO_NODE").becomes(told.From(ether.MAC{}).To(ether.MAC{3})))
			})
		}
	})
}

// Whoever the node routes for keeps its address: its answers go the way that the pod knows.
func TestClientBehindTheNodeOfAPodThatSharesItsMAC(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		share(w)
		in := fromClient(toCarol, "S").From(bpftest.Master)
		w.mustStep(t, egress(in, bpftest.ToPods, "NEW_FLOW").becomes(in.Dst(carol.At(target))))
	})
}
