// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

// hop is a router far away, which tells the VIP what became of its packets.
var hop = netip.MustParseAddr("203.0.113.1")

// told is an error of a station beyond the router to a VIP.
func told(by netip.Addr, m bpftest.Message, about bpftest.Packet) bpftest.Packet {
	return bpftest.ICMP(by, vip, m).Rest(1400).Quoting(about, 0).From(router).To(bpftest.Master)
}

// toldAlice is what such an error to a VIP becomes for her.
func toldAlice(e, about bpftest.Packet) bpftest.Packet {
	return e.Dst(alice.At(0)).Quoting(about, 0).To(alice.MAC)
}

// complains is an error of alice to a client, and answers the packet that it is about.
func complains(to netip.Addr, m bpftest.Message, about bpftest.Packet) bpftest.Packet {
	return bpftest.ICMP(alice.Addr, to, m).Rest(1400).Quoting(about, 0).From(alice.MAC).To(router)
}

// fromVIP gives alice's complaint to a client the VIP.
func fromVIP(e, about bpftest.Packet) bpftest.Packet {
	return e.Src(addrPort(vip, 0)).Quoting(about, 0)
}

// datagrams of a connection of the client to alice, as client and VIP know them, and as she does.
var (
	asked    = bpftest.UDP(client, toAlice).From(router).To(bpftest.Master).Payload("query")
	answered = bpftest.UDP(alice.At(target), client).From(alice.MAC).To(router).Payload("answer")
)

func askedAlice() step { return ingress(asked, bpftest.OK, "NEW_FLOW").becomes(atAlice(asked)) }

// errorPaths are ICMP errors about packets of ours.
func errorPaths(f family) map[string]path {
	sent := fromAlice("P.").Seq(7000)
	shown := sent.Src(toAlice)
	out := make(map[string]path)
	maps.Copy(out, quotePaths(f))
	maps.Copy(out, strangeErrorPaths(f))
	for name, m := range bpftest.Errors {
		tcp, udp := told(hop, m, shown), complains(client.Addr(), m, atAlice(asked))
		out[name+" to the VIP"] = one(append(handshake(toAlice),
			ingress(tcp, bpftest.OK, "ICMP_ERROR").becomes(toldAlice(tcp, sent)))...)
		out[name+" from a pod"] = one(askedAlice(),
			egress(udp, bpftest.OK, "ICMP_ERROR").becomes(fromVIP(udp, asked)))
		out[name+" to the VIP of another node's pod"] = one(
			ingress(told(hop, m, fromRemi()), bpftest.ToWire, "REMOTE").
				becomes(told(hop, m, fromRemi()).From(bpftest.Master).To(remi.MAC)))
	}
	return out
}

// fromRemi is what a client of the remote service gets.
func fromRemi() bpftest.Packet { return bpftest.TCP(toRemi, client, "P.").Payload("world!") }

// quotePaths are errors that quote more or less than a whole and simple packet.
func quotePaths(f family) map[string]path {
	sent := fromAlice("P.").Seq(7000)
	out := make(map[string]path)
	add := func(name string, before []step, inside, outside bpftest.Packet, octets int) {
		in := told(hop, bpftest.TooBig, outside).Quoting(outside, octets)
		out["quotes "+name] = one(append(before,
			ingress(in, bpftest.OK, "ICMP_ERROR").becomes(toldAlice(in, inside).Quoting(inside, octets)))...)
	}
	options := behindHeaders(sent.IPOptions(0x94, 4, 0, 0))
	add("options, or extension headers", handshake(toAlice), options, options.Src(toAlice), 0)
	first := sent.Fragment(0, true)
	add("a first fragment", handshake(toAlice), first, first.Src(toAlice), 0)
	header := map[family]int{ipv4: 20, ipv6: 40}[f]
	add("eight octets", handshake(toAlice), sent, sent.Src(toAlice), header+8)
	add("no more than the ports", handshake(toAlice), sent, sent.Src(toAlice), header+4)
	add("a datagram", []step{askedAlice()}, answered, answered.Src(toAlice), 0)
	bare := answered.NoChecksum()
	add("a datagram without a checksum", []step{askedAlice()}, bare, bare.Src(toAlice), 0)

	useless := func(name string, quoted bpftest.Packet, octets int) {
		in := told(hop, bpftest.TooBig, quoted).Quoting(quoted, octets)
		out["quotes "+name] = one(append(handshake(toAlice), ingress(in, bpftest.Drop, "ICMP_UNRELATED"))...)
	}
	shown := sent.Src(toAlice)
	useless("a later fragment, which has no ports", shown.Fragment(1280, true), 0)
	useless("less than the ports", shown, header+3)
	useless("less than a header", shown, header-1)
	useless("another version", f.packet(shown).Version(7), 0)
	useless("what is neither TCP nor UDP", bpftest.IP(vip, client.Addr(), bpftest.ProtoSCTP).Payload("01234567"), 0)
	if f == ipv6 {
		useless("ESP", shown.Options(bpftest.ExtESP, 8), 0)
		useless("a mapped address", bpftest.TCP(f.at(toRemi), addrPort(mapped, 40000), "."), 0)
	}
	return out
}

// strangeErrorPaths are errors that come other ways, or from others, or about nothing.
func strangeErrorPaths(f family) map[string]path {
	sent := fromAlice("P.").Seq(7000)
	shown, seen := sent.Src(toAlice), fromClient(toAlice, "P.").Seq(101)
	err := told(hop, bpftest.TooBig, shown)
	unrelated := func(e bpftest.Packet) path { return one(ingress(e, bpftest.Drop, "ICMP_UNRELATED")) }
	besides := func(s ...step) path { return one(append(handshake(toAlice), s...)...) }
	useless := func(e bpftest.Packet) path { return besides(ingress(e, bpftest.Drop, "ICMP_UNRELATED")) }
	unsupported := func(e bpftest.Packet) path { return besides(ingress(e, bpftest.Drop, "UNSUPPORTED_PROTOCOL")) }
	ownAffair := func(e bpftest.Packet) path { return besides(egress(e, bpftest.PassOn, "MISS")) }
	chosen := err.From(peer).To(alice.MAC)
	byClient := told(client.Addr(), bpftest.PortUnreachable, shown)
	onward := told(hop, bpftest.TooBig, fromRemi())
	bobs := bpftest.TCP(bob.At(40000), toAlice, "S").From(bob.MAC).To(bpftest.Master)
	bobSays := bpftest.ICMP(bob.Addr, vip, bpftest.PortUnreachable).From(bob.MAC).To(bpftest.Master)
	toBobs := complains(bob.Addr, bpftest.PortUnreachable, atAlice(bobs)).To(bob.MAC)
	fromBob := complains(client.Addr(), bpftest.PortUnreachable, atAlice(seen)).Src(bob.At(0)).From(bob.MAC)
	tooLong := complains(client.Addr(), bpftest.TooBig, seen)
	mine := bpftest.UDP(addrPort(nobody, 53), alice.At(5000))
	return map[string]path{
		"of the client itself": besides(
			ingress(byClient, bpftest.OK, "ICMP_ERROR").becomes(toldAlice(byClient, sent))),
		"that an owner sent on": besides(
			ingress(chosen, bpftest.OK, "ICMP_ERROR").becomes(toldAlice(chosen, sent))),
		"that an owner sent on, of no flow": unrelated(chosen),
		"behind options, or extension headers": besides(
			ingress(behindHeaders(err.IPOptions(1, 1, 1, 0)), bpftest.OK, "ICMP_ERROR").
				becomes(toldAlice(behindHeaders(err.IPOptions(1, 1, 1, 0)), sent))),
		"about a choice, not the table": one(sentTo(remi, "S"),
			ingress(onward, bpftest.ToWire, "REMOTE").becomes(onward.From(bpftest.Master).To(remi.MAC))),
		"of a pod that is a client": one(
			egress(bobs, bpftest.ToPods, "NEW_FLOW").becomes(atAlice(bobs)),
			egress(bobSays.Quoting(shown.Dst(bob.At(40000)), 0), bpftest.ToPods, "ICMP_ERROR").
				becomes(toldAlice(bobSays, sent.Dst(bob.At(40000))))),
		"to a sibling": one(
			egress(bobs, bpftest.ToPods, "NEW_FLOW").becomes(atAlice(bobs)),
			ingress(toBobs, bpftest.OK, "ICMP_ERROR").becomes(fromVIP(toBobs, bobs))),
		"to a sibling, sent back by a switch": one(
			egress(bobs, bpftest.ToPods, "NEW_FLOW").becomes(atAlice(bobs)),
			ingress(toBobs.To(router), bpftest.PassOn, "MISS")),
		"about a packet of no flow":                unrelated(err),
		"about a packet that the VIP did not send": useless(told(hop, bpftest.TooBig, shown.Src(peerAlice))),
		"to a VIP about a pod's packet":            useless(told(hop, bpftest.TooBig, sent)),
		"at egress, about nothing":                 one(egress(err, bpftest.Drop, "ICMP_UNRELATED")),
		"of another pod than the packet's":         ownAffair(fromBob),
		"of a pod about its own affairs":           ownAffair(complains(nobody, bpftest.PortUnreachable, mine)),
		"of a pod, as a fragment":                  ownAffair(tooLong.Fragment(0, true)),
		"source quench":                            unsupported(told(hop, bpftest.SourceQuench, shown)),
		"redirect":                                 unsupported(told(hop, bpftest.IPRedirect, shown)),
		"a router's redirect to a pod's client": besides(
			egress(complains(client.Addr(), bpftest.IPRedirect, atAlice(seen)), bpftest.PassOn, "MISS")),
		"as fragments": besides(ingress(err.Fragment(0, true), bpftest.Drop, "FRAGMENT")),
		"flooded":      besides(ingress(err.To(other), bpftest.PassOn, "FLOODED")),
		"in a family's other protocol": besides(ingress(
			bpftest.IP(hop, vip, map[family]uint8{ipv4: bpftest.ProtoICMPv6, ipv6: bpftest.ProtoICMP}[f]).
				From(router).To(bpftest.Master).Payload("0123456789"), bpftest.Drop, "UNSUPPORTED_PROTOCOL")),
	}
}

// A quote may end anywhere. Whatever is there is translated, and no octet behind it is touched.
func TestErrorsWhoseQuoteIsCutOffAtEveryLength(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		w.mustSteps(t, handshake(toAlice)...)
		sent := behindHeaders(fromAlice("P.").IPOptions(1, 1, 1, 0))
		ports := map[family]int{ipv4: 24 + 4, ipv6: 40 + headersLen + 4}[f]
		whole := len(w.bytes(sent)) - 14
		for n := 1; n <= whole; n++ {
			if n == ports+13 { // half of TCP's checksum: what is there of it stays as it is
				continue
			}
			in := told(hop, bpftest.TooBig, sent).Quoting(sent.Src(toAlice), n)
			s := ingress(in, bpftest.OK, "ICMP_ERROR").becomes(toldAlice(in, sent).Quoting(sent, n))
			if n < ports {
				s = ingress(in, bpftest.Drop, "ICMP_UNRELATED")
			}
			w.mustStep(t, s.called(fmt.Sprintf("%d octets", n)))
		}
	})
}

// What is wrong when it comes is wrong when it goes, so that its receiver sees it.
func TestErrorsWithWrongChecksumsKeepThem(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		w.mustSteps(t, handshake(toAlice)...)
		sent := fromAlice("P.")
		in := told(hop, bpftest.TooBig, sent.Src(toAlice))
		frame, want := w.bytes(in), w.bytes(toldAlice(in, sent))
		last := len(frame) - 1 // of the quoted payload
		frame[last] ^= 0x55
		want[last] ^= 0x55
		got := w.Do(bpftest.Run{Dir: bpftest.Ingress, Frame: frame})
		mustEqualFrames(t, "error", want, got.Frame)
		if bpftest.VerifyChecksums(got.Frame) == nil {
			t.Error("its checksums are right now")
		}
	})
}

// A pod that talks to itself learns of its own error by the addresses and the ports that its client uses.
func TestErrorsOfAPodThatTalksToItself(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		in := bpftest.UDP(alice.At(40000), toAlice).From(alice.MAC).To(bpftest.Master).Payload("query")
		port := w.mustHairpin(t, egress(in, bpftest.ToPods, "NEW_FLOW"), alice)
		got := in.To(alice.MAC).Src(addrPort(vip, port)).Dst(alice.At(target))
		err := bpftest.ICMP(alice.Addr, vip, bpftest.PortUnreachable).Quoting(got, 0).From(alice.MAC).To(bpftest.Master)
		want := bpftest.ICMP(vip, alice.Addr, bpftest.PortUnreachable).Quoting(in, 0).From(alice.MAC).To(alice.MAC)
		w.mustStep(t, egress(err, bpftest.ToPods, "ICMP_ERROR").becomes(want))
	})
}

// Replies still take the VIP then, and so do errors in their place; what the client sends is none of ours.
func TestErrorsWhenTheVIPIsNoLongerServed(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		own := bpftest.UDP(alice.At(40000), toAlice).From(alice.MAC).To(bpftest.Master)
		w.mustStep(t, askedAlice())
		w.Do(bpftest.Run{Dir: bpftest.Egress, Frame: w.bytes(own)})
		w.RemoveVIP(f.addr(vip))
		out := complains(client.Addr(), bpftest.PortUnreachable, atAlice(asked))
		w.mustSteps(t,
			egress(out, bpftest.OK, "ICMP_ERROR").becomes(fromVIP(out, asked)),
			ingress(told(client.Addr(), bpftest.TooBig, answered.Src(toAlice)), bpftest.PassOn, "MISS"),
			// Alice is a client of her own, too.
			egress(told(alice.Addr, bpftest.TooBig, bpftest.UDP(toAlice, alice.At(40000))).From(alice.MAC).To(router),
				bpftest.PassOn, "MISS"))
	})
}

// An error is nothing that a connection ends by (RFC 5927): the pod's stack judges it.
func TestErrorsLeaveTheFlowAsItIs(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		w.mustSteps(t, handshake(toAlice)...)
		in := told(hop, bpftest.HostUnreachable, fromAlice("P.").Src(toAlice))
		w.mustStep(t, ingress(in, bpftest.OK, "ICMP_ERROR").becomes(toldAlice(in, fromAlice("P."))))
		w.mustEqualText(t, "flows", aliceFlow("", " reply"), w.Flows(w.LbMaps.Flows))
		w.mustSteps(t, delivered("P.", "LOCAL"), returned("P."))
	})
}
