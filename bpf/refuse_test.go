// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/bpf/bpftest"
	"github.com/sluice-lb/sluice/internal/ether"
)

// toNobody is a segment or a datagram to the Service without backends.
func toNobody(flags string) bpftest.Packet {
	return fromClient(toNothing, flags).Payload("").Seq(100).TTL(57)
}

func askingNobody(payload string) bpftest.Packet {
	return bpftest.UDP(client, toNothing).From(router).To(bpftest.Master).TTL(57).Payload(payload)
}

// reset is what the client gets.
func reset(flags string, seq, ack uint32) bpftest.Packet {
	return bpftest.TCP(toNothing, client, flags).Seq(seq).Ack(ack).Window(0).DontFragment().From(bpftest.Master).To(router)
}

// unserviced is the error about a datagram.
func unserviced(quoted bpftest.Packet, octets int) bpftest.Packet {
	return bpftest.ICMP(vip, client.Addr(), bpftest.PortUnreachable).Quoting(quoted, octets).DontFragment().
		From(bpftest.Master).To(router)
}

// nobodyPaths are packets to a Service that has no backend.
func nobodyPaths(f family) map[string]path {
	most := map[family]int{ipv4: 576 - 28, ipv6: 1280 - 48}[f] // what is left of the smallest MTU
	refused := func(in, out bpftest.Packet) path {
		return one(
			ingress(in, bpftest.ToWire, "REFUSED").becomes(out),
			egress(in, bpftest.ToPods, "REFUSED").becomes(out))
	}
	silent := func(in bpftest.Packet) path { return path{steps: bothWays(in, bpftest.Drop, "NO_BACKEND")} }
	limited := func(kind bpftest.Answer, in bpftest.Packet) path {
		return path{
			setup: func(w *world) { w.Allow(kind, false) },
			steps: bothWays(in, bpftest.Drop, "ANSWER_LIMIT"),
		}
	}
	headers := func(p bpftest.Packet) bpftest.Packet { return behindHeaders(p.IPOptions(1, 1, 1, 0)) }
	syn, query := toNobody("S"), askingNobody("query")
	long := askingNobody(strings.Repeat("long", 400))
	options := syn.TCPOptions(2, 4, 5, 0xb4)
	all := map[string]path{
		"SYN":                       refused(syn, reset("R.", 0, 101)),
		"SYN with options and data": refused(options.Payload("hello"), reset("R.", 0, 106)),
		"SYN and FIN":               refused(syn.Flags("FS"), reset("R.", 0, 102)),
		"SYN that wraps":            refused(syn.Seq(1<<32-1), reset("R.", 0, 0)),
		"data without ACK":          refused(toNobody("P").Payload("hello"), reset("R.", 0, 105)),
		"no flags":                  refused(toNobody(""), reset("R.", 0, 100)),
		"ACK":                       refused(toNobody(".").Ack(777), reset("R", 777, 0)),
		"ACK and data":              refused(toNobody("P.").Ack(777).Payload("hello"), reset("R", 777, 0)),
		"SYN and ACK":               refused(toNobody("S.").Ack(777), reset("R", 777, 0)),
		"FIN":                       refused(toNobody("F.").Ack(777), reset("R", 777, 0)),
		"SYN behind headers":        refused(headers(options).Payload("hello"), reset("R.", 0, 106)),
		"RST":                       silent(toNobody("R")),
		"RST with all else":         silent(toNobody("FSRP.")),
		"datagram":                  refused(query, unserviced(query, 0)),
		"datagram of no octets":     refused(askingNobody(""), unserviced(askingNobody(""), 0)),
		"datagram without checksum": refused(query.NoChecksum(), unserviced(query.NoChecksum(), 0)),
		"datagram behind headers":   refused(headers(query), unserviced(headers(query), 0)),
		"long datagram":             refused(long, unserviced(long, most)),
		"too many resets":           limited(bpftest.Resets, syn),
		"too many unreachables":     limited(bpftest.Unreachables, query),
		"SYN, too many unreachables": {
			setup: func(w *world) { w.Allow(bpftest.Unreachables, false) },
			steps: []step{ingress(syn, bpftest.ToWire, "REFUSED").becomes(reset("R.", 0, 101))},
		},
		"SYN, to all":      one(egress(syn.To(ether.Broadcast), bpftest.Drop, "NO_BACKEND")),
		"datagram, to all": one(egress(query.To(ether.Broadcast), bpftest.Drop, "NO_BACKEND")),
		"SYN from a group": one(ingress(syn.From(ether.Broadcast), bpftest.Drop, "NO_BACKEND")),
		"SYN, sent to a pod by an owner": one(
			ingress(syn.From(peer).To(alice.MAC), bpftest.Drop, "NOT_SELECTED")),
		"the operator wants silence": {
			cfg:   bpftest.Config{Silent: true},
			steps: append(bothWays(syn, bpftest.Drop, "NO_BACKEND"), bothWays(query, bpftest.Drop, "NO_BACKEND")...),
		},
		"a flow that lives on when its Service has no backend": {
			steps: append(handshake(toAlice), delivered("P.", "LOCAL"), returned("P.")),
		},
	}
	for name, a := range noStations(f) {
		all["SYN from "+name] = silent(from(a, f, syn))
		all["datagram from "+name] = silent(from(a, f, query))
	}
	return all
}

// Ethernet pads short frames: a reset counts the segment alone, and an error quotes what came.
func TestRefusedFramesWithPadding(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		padding := make([]byte, 6)
		got := w.Do(bpftest.Run{Dir: bpftest.Ingress, Frame: append(w.bytes(toNobody("S")), padding...)})
		mustEqualFrames(t, "reset", w.bytes(reset("R.", 0, 101)), got.Frame)
		query := askingNobody("q")
		got = w.Do(bpftest.Run{Dir: bpftest.Ingress, Frame: append(w.bytes(query), padding...)})
		mustEqualFrames(t, "error", w.bytes(unserviced(query, 0).Payload(string(padding))), got.Frame)
	})
}

// A connection that lives is none of a refusal's business; a Service that gets its backend back serves again.
func TestServiceLosesItsBackendsAndGetsThemBack(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		w.mustSteps(t, handshake(toAlice)...)
		s := w.tcp[toAlice]
		s.SetTable()
		w.mustSteps(t, delivered("P.", "LOCAL"), returned("P."))
		late := fromClient(toAlice, "S").Src(fromPort(40001)).Payload("").Seq(100)
		answer := reset("R.", 0, 101).Src(toAlice).Dst(fromPort(40001))
		w.mustStep(t, ingress(late, bpftest.ToWire, "REFUSED").becomes(answer))
		s.UseTable(0)
		w.mustStep(t, ingress(late, bpftest.OK, "NEW_FLOW").becomes(atAlice(late)))
	})
}
