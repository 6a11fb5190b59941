// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

// path is a way through the programs: packets in order, in a world of their own.
type path struct {
	cfg   bpftest.Config
	setup func(w *world) // changes to the usual world
	steps []step
}

func one(steps ...step) path { return path{steps: steps} }

// unreachable lists what no packet of a family can cause, with the reason why.
var unreachable = map[family][]string{
	ipv4: append([]string{"ingress ND_REPLY", "egress ND_REPLY"}, neverReached...), // only IPv6 has ND
	ipv6: append([]string{"ingress ARP_REPLY", "egress ARP_REPLY"}, neverReached...),
}

var neverReached = []string{
	"ingress FORWARDED",   // asked at egress alone
	"ingress TURNED_BACK", // the same
	"egress TO_NODE",      // what is for the node itself enters by ingress
	"egress FLOODED",      // everything at egress comes from this node
	"ingress ISOLATED",    // the same
	"egress NOT_OWNER",    // a node's own pods hear no other owner
	"egress NOT_SELECTED", // a frame to a pod's MAC is the owner's choice at ingress alone
}

// groups are all paths of a family.
func groups(f family) map[string]map[string]path {
	all := map[string]map[string]path{
		"neighbours": neighbourPaths(f),
		"vip":        vipPaths(),
		"pod":        podPaths(),
		"alone":      alonePaths(),
		"refused":    refusedPaths(),
		"tagged":     taggedPaths(f),
		"apart":      apartPaths(f),
		"shared":     sharedPaths(f),
		"beside":     besidePaths(f),
		"errors":     errorPaths(f),
		"echo":       echoPaths(f),
		"nobody":     nobodyPaths(f),
		"ranges":     rangePaths(f),
		"ipvlan":     ipvlanPaths(f),
	}
	if f == ipv4 {
		all["arp"] = arpPaths()
	} else {
		all["nd"], all["extensions"], all["mapped"] = ndPaths(), extensionPaths(), mappedPaths()
	}
	return all
}

func TestEveryPathOfThePrograms(t *testing.T) {
	eachFamily(t, testEveryPath)
}

func testEveryPath(t *testing.T, f family) {
	coverage := &bpftest.Coverage{}
	for group, paths := range groups(f) {
		t.Run(group, func(t *testing.T) {
			for name, p := range paths {
				t.Run(name, func(t *testing.T) {
					p.cfg.Coverage = coverage
					w := newWorld(t, f, p.cfg)
					if p.setup != nil {
						p.setup(w)
					}
					w.mustSteps(t, p.steps...)
				})
			}
		})
	}
	t.Run("refused helper", func(t *testing.T) { testRefusedHelper(t, f, coverage) })
	t.Run("tag beside the frame", func(t *testing.T) { testTagBeside(t, f, coverage) })
	t.Run("tag that cannot be moved", func(t *testing.T) { testTagThatStays(t, f, coverage) })
	t.Run("no port", func(t *testing.T) { testNoPort(t, f, coverage) })
	t.Run("every reason was given", func(t *testing.T) {
		missing := coverage.Missing(newWorld(t, f, bpftest.Config{}).LB)
		for _, m := range missing {
			if !slices.Contains(unreachable[f], m) {
				t.Errorf("no path gave %s; run the whole test, or add a path", m)
			}
		}
		for _, u := range unreachable[f] {
			if !slices.Contains(missing, u) {
				t.Errorf("%s is listed as unreachable, but a path gave it", u)
			}
		}
	})
}

// vipPaths are packets to a VIP that are served.
func vipPaths() map[string]path {
	syn, data := fromClient(toAlice, "S"), fromClient(toAlice, "P.")
	remote := fromClient(toRemi, "P.").TTL(63).ID(7).DontFragment()
	sent := remote.From(bpftest.Master).To(remi.MAC)
	chosen := bpftest.TCP(client, toAlice, "P.").From(peer).To(alice.MAC) // a peer owns the VIP and has picked alice
	datagram := bpftest.UDP(client, toAlice).From(router).To(bpftest.Master).Payload("query")
	answer := bpftest.UDP(alice.At(target), client).From(alice.MAC).To(router).Payload("answer")
	options := behindHeaders(syn.IPOptions(0x94, 4, 0, 0)).TCPOptions(2, 4, 5, 0xb4)
	answered := behindHeaders(fromAlice("S.").IPOptions(1, 1, 1, 0))
	longest := syn.IPOptions(make([]byte, 40)...).Options(bpftest.ExtDestination, 456)
	return map[string]path{
		"owner sends on to a remote pod by the MACs alone": one(
			ingress(remote, bpftest.ToWire, "REMOTE").becomes(sent).called("first"),
			ingress(remote, bpftest.ToWire, "REMOTE").becomes(sent).called("second"),
			egress(sent, bpftest.PassOn, "FORWARDED").called("leaving").throughMaster()),
		"owner delivers to a local pod": one(append(handshake(toAlice),
			ingress(data, bpftest.OK, "LOCAL").becomes(atAlice(data)),
			egress(fromAlice("P."), bpftest.OK, "UNNAT").becomes(fromAlice("P.").Src(toAlice)))...),
		"backend's node takes a frame that a peer chose for its pod": one(
			ingress(chosen, bpftest.OK, "NEW_FLOW").becomes(atAlice(chosen)),
			ingress(chosen, bpftest.OK, "LOCAL").becomes(atAlice(chosen)),
			egress(fromAlice("."), bpftest.OK, "UNNAT").becomes(fromAlice(".").Src(toAlice))),
		"a VIP that a peer owns is balanced when a frame is for this node": one(
			ingress(fromClient(peerRemi, "S"), bpftest.ToWire, "REMOTE").
				becomes(fromClient(peerRemi, "S").From(bpftest.Master).To(remi.MAC))),
		"UDP": one(
			ingress(datagram, bpftest.OK, "NEW_FLOW").becomes(atAlice(datagram)),
			ingress(datagram, bpftest.OK, "LOCAL").becomes(atAlice(datagram)),
			egress(answer, bpftest.OK, "UNNAT").becomes(answer.Src(toAlice))),
		"UDP without a checksum keeps none": one(
			ingress(datagram.NoChecksum(), bpftest.OK, "NEW_FLOW").becomes(atAlice(datagram).NoChecksum()),
			egress(answer.NoChecksum(), bpftest.OK, "UNNAT").becomes(answer.NoChecksum().Src(toAlice))),
		"UDP from port 0": one(
			ingress(datagram.Src(fromPort(0)), bpftest.OK, "NEW_FLOW").becomes(atAlice(datagram).Src(fromPort(0))),
			egress(answer.Dst(fromPort(0)), bpftest.OK, "UNNAT").becomes(answer.Dst(fromPort(0)).Src(toAlice))),
		"UDP to a remote pod": one(
			ingress(datagram.Dst(toRemi), bpftest.ToWire, "REMOTE").
				becomes(datagram.Dst(toRemi).From(bpftest.Master).To(remi.MAC)),
			ingress(datagram.Dst(toRemi), bpftest.ToWire, "REMOTE").
				becomes(datagram.Dst(toRemi).From(bpftest.Master).To(remi.MAC))),
		"port equal to the target port": one(
			ingress(fromClient(zeroTarget, "S"), bpftest.OK, "NEW_FLOW").becomes(atAlice(fromClient(zeroTarget, "S"))),
			egress(fromAlice("S."), bpftest.OK, "UNNAT").becomes(fromAlice("S.").Src(zeroTarget))),
		"options of IP, or extension headers, and options of TCP": one(
			ingress(options, bpftest.OK, "NEW_FLOW").becomes(atAlice(options)),
			egress(answered, bpftest.OK, "UNNAT").becomes(answered.Src(toAlice))),
		"the longest way to layer 4": one(
			ingress(longest, bpftest.OK, "NEW_FLOW").becomes(atAlice(longest))),
	}
}

// podPaths are packets that leave local pods and the node, and the answers among them.
func podPaths() map[string]path {
	// Bob's frames to a VIP go to the master's MAC, because lb_egress answered his ARP request with it.
	bobAlice := bpftest.TCP(bob.At(40000), toAlice, "S").From(bob.MAC).To(bpftest.Master).Payload("hi")
	bobRemi := bobAlice.Dst(toRemi)
	aliceBob := bpftest.TCP(alice.At(target), bob.At(40000), "S.").From(alice.MAC).To(bob.MAC)
	nodeAlice := bpftest.TCP(netip.AddrPortFrom(node, 40000), toAlice, "S").From(bpftest.Master).To(bpftest.Master)
	nodeRemi := nodeAlice.Dst(toRemi)
	aliceNode := bpftest.TCP(alice.At(target), netip.AddrPortFrom(node, 40000), "S.").From(alice.MAC).To(bpftest.Master)
	plainNode := bpftest.TCP(alice.At(5000), netip.AddrPortFrom(node, 22), "S").From(alice.MAC).To(bpftest.Master)
	plainPod := bpftest.TCP(netip.AddrPortFrom(node, 22), alice.At(5000), "S.").From(bpftest.Master).To(alice.MAC)
	return map[string]path{
		"local pod to a local pod": one(
			egress(bobAlice, bpftest.ToPods, "NEW_FLOW").becomes(atAlice(bobAlice)),
			ingress(aliceBob, bpftest.OK, "UNNAT").becomes(aliceBob.Src(toAlice)),
			egress(bobAlice.Flags("."), bpftest.ToPods, "LOCAL").becomes(atAlice(bobAlice.Flags(".")))),
		"local pod to a remote pod": one(
			egress(bobRemi, bpftest.OK, "REMOTE").becomes(bobRemi.From(bpftest.Master).To(remi.MAC)),
			ingress(bpftest.TCP(toRemi, bob.At(40000), "S.").From(remi.MAC).To(bob.MAC), bpftest.PassOn, "MISS")),
		"local pod with a stale neighbour entry for the VIP": one(
			egress(bobAlice.To(peer), bpftest.ToPods, "NEW_FLOW").becomes(atAlice(bobAlice)),
			egress(bobRemi.To(peer), bpftest.OK, "REMOTE").becomes(bobRemi.From(bpftest.Master).To(remi.MAC))),
		"node to a local pod": one(
			egress(nodeAlice, bpftest.ToPods, "NEW_FLOW").becomes(atAlice(nodeAlice)),
			egress(aliceNode, bpftest.ToPods, "UNNAT").becomes(aliceNode.Src(toAlice))),
		"node to a remote pod": one(
			egress(nodeRemi, bpftest.OK, "REMOTE").becomes(nodeRemi.To(remi.MAC))),
		"frames between the node and its pods are turned back": one(
			egress(plainNode, bpftest.ToPods, "TURNED_BACK"),
			egress(plainPod, bpftest.ToPods, "TURNED_BACK"),
			egress(bpftest.Frame(0x88b5, make([]byte, 46)).From(alice.MAC).To(bpftest.Master),
				bpftest.ToPods, "TURNED_BACK").called("of no protocol that we know"),
			egress(plainPod.To(remi.MAC), bpftest.PassOn, "MISS").called("to a pod elsewhere"),
			egress(plainNode.To(alice.MAC), bpftest.PassOn, "MISS").called("from a pod to a pod: not by us")),
		"a pod's own traffic": one(
			egress(fromAlice("S"), bpftest.PassOn, "MISS"),
			ingress(fromAlice("S").Dst(bob.At(80)).To(bob.MAC), bpftest.PassOn, "MISS").called("to its sibling"),
			ingress(fromAlice("S").Src(client).Dst(alice.At(target)).To(alice.MAC), bpftest.PassOn, "MISS").called("to it")),
		"a connection to the pod itself beside one through the VIP": one(append(handshake(toAlice),
			egress(fromAlice("P.").Dst(fromPort(40001)), bpftest.PassOn, "MISS"))...),
		"a reply that a switch sent back is not touched": one(append(handshake(toAlice),
			ingress(fromAlice("P."), bpftest.PassOn, "FLOODED"))...),
		"a fragment of a reply": one(append(handshake(toAlice),
			egress(fromAlice("P.").Fragment(0, true), bpftest.Drop, "FRAGMENT"),
			egress(fromAlice("P.").Fragment(64, false), bpftest.PassOn, "MISS").called("later fragment has no ports"))...),
	}
}

// alonePaths are packets that are none of ours.
func alonePaths() map[string]path {
	plain := bpftest.TCP(client, netip.AddrPortFrom(nobody, 80), "S").From(router).To(bpftest.Master)
	unknown := bpftest.Frame(0x88b5, make([]byte, 46)).From(router).To(bpftest.Master)
	return map[string]path{
		"not to a VIP":     one(ingress(plain, bpftest.PassOn, "MISS"), egress(plain.To(router), bpftest.PassOn, "MISS")),
		"unknown protocol": one(ingress(unknown, bpftest.PassOn, "MISS"), egress(unknown.To(router), bpftest.PassOn, "MISS")),
		"broadcast to the VIP's address": one(
			ingress(fromClient(toAlice, "S").To([6]byte{255, 255, 255, 255, 255, 255}), bpftest.PassOn, "FLOODED")),
		"flooded frames to the VIP": one(append(handshake(toAlice),
			ingress(fromClient(toAlice, "P.").To(other), bpftest.PassOn, "FLOODED").called("of a live flow"),
			ingress(fromClient(toRemi, "S").To(remi.MAC), bpftest.PassOn, "FLOODED").called("for a pod elsewhere"))...),
		"our own frame sent on to a remote pod": one(
			egress(fromClient(toRemi, "S").From(bpftest.Master).To(remi.MAC), bpftest.PassOn, "FORWARDED").throughMaster()),
		"a sibling's frame that came through the master is balanced all the same": one(
			egress(fromClient(toRemi, "S").From(bob.MAC), bpftest.OK, "REMOTE").
				becomes(fromClient(toRemi, "S").From(bpftest.Master).To(remi.MAC)).throughMaster()),
	}
}

// refusedPaths are packets that are dropped.
func refusedPaths() map[string]path {
	in, ack := fromClient(toAlice, "S"), fromClient(toAlice, ".").Ack(501)
	return map[string]path{
		"no Service":         {steps: bothWays(in.Dst(unserved), bpftest.Drop, "NO_SERVICE")},
		"SCTP":               {steps: bothWays(ip(bpftest.ProtoSCTP), bpftest.Drop, "UNSUPPORTED_PROTOCOL")},
		"first fragment":     {steps: bothWays(in.Fragment(0, true), bpftest.Drop, "FRAGMENT")},
		"later fragment":     {steps: bothWays(in.Fragment(1480, true), bpftest.Drop, "FRAGMENT")},
		"last fragment":      {steps: bothWays(in.Fragment(1480, false), bpftest.Drop, "FRAGMENT")},
		"fragment of a flow": one(append(handshake(toAlice), ingress(in.Fragment(0, true), bpftest.Drop, "FRAGMENT"))...),
		"pod is no backend": one(
			ingress(in.To(bob.MAC), bpftest.Drop, "NOT_SELECTED"),
			ingress(in.Dst(unserved).To(bob.MAC), bpftest.Drop, "NO_SERVICE")),
		"table without its backend": {
			setup: func(w *world) { w.tcp[toAlice].RemoveBackend(0) },
			steps: bothWays(in, bpftest.Drop, "NO_BACKEND"),
		},
		"local backend without its entry": {
			setup: func(w *world) { w.tcp[toAlice].RemoveBackend(0) },
			steps: []step{ingress(in.To(alice.MAC), bpftest.Drop, "NO_BACKEND")},
		},
		"the pod's 5-tuple is taken by another VIP": one(append(handshake(toAlice),
			bothWays(in.Dst(peerAlice), bpftest.Drop, "COLLISION")...)...),
		"flows full": {
			cfg: bpftest.Config{MaxEntries: map[string]uint32{"flows": 1}},
			steps: []step{
				handshake(toAlice)[0], handshake(toAlice)[1],
				// It goes nowhere, rewritten as it is.
				ingress(ack, bpftest.Drop, "FLOWS_FULL").becomes(atAlice(ack)),
				egress(ack, bpftest.Drop, "FLOWS_FULL").becomes(atAlice(ack)),
			},
		},
	}
}

// bothWays runs the packet at ingress and at egress.
func bothWays(in bpftest.Packet, action bpftest.Action, reason string) []step {
	return []step{ingress(in, action, reason).called("ingress"), egress(in, action, reason).called("egress")}
}

func ip(proto uint8) bpftest.Packet {
	return bpftest.IP(client.Addr(), vip, proto).From(router).To(bpftest.Master).Payload("0123456789abcdef")
}

func fromPort(p uint16) netip.AddrPort { return addrPort(client.Addr(), p) }

func addrPort(a netip.Addr, p uint16) netip.AddrPort { return netip.AddrPortFrom(a, p) }

// throughMaster says that the packet had come in by the master before it reached egress.
func (s step) throughMaster() step { s.arrived = true; return s }
