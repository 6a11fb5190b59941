// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"slices"
	"testing"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

// begins is the first packet of a TCP client: the positions of sources and requests.
func begins(src, dst byte) record { return record{Kind: 0, Src: src, Dst: dst} }

// asks is the first datagram of a client.
func asks(src, dst byte) record { return record{Kind: 5, Src: src, Dst: dst} }

// client and pod go on with the only connection, by the flags that are next, or by others.
func clientSays(flags ...string) record { return says(record{Kind: 7}, flags) }

func podSays(flags ...string) record { return says(record{Kind: 15}, flags) }

// routerSays is an error about what the VIP has sent, podErrs one about what the pod has got.
func routerSays(m byte) record { return record{Kind: kindToVIP, With: m} }

func podErrs(m byte) record { return record{Kind: kindFromPod, With: m} }

// enters is what was turned back last, as it enters.
func enters() record { return record{Kind: kindEnter} }

// asksFor is a question for the MAC of one of hosts, by another.
func asksFor(by, about byte) record { return record{Kind: kindAsk, Src: by, Dst: about} }

func says(r record, flags []string) record {
	if len(flags) > 0 {
		r.Flags = 128 + byte(slices.Index(segments, flags[0]))
	}
	return r
}

// worldChanges changes one backend of every mixed Service.
func worldChanges(position byte, c change) []record {
	var out []record
	for service := range byte(2 * len(mixedAt)) {
		out = append(out, record{Kind: kindChange, Src: service, Dst: position, Extra: byte(c)})
	}
	return out
}

// everywhere changes all backends of all mixed Services.
func everywhere(c change) []record {
	var out []record
	for position := range byte(len(mixedBackends)) {
		out = append(out, worldChanges(position, c)...)
	}
	return out
}

// chosenForAlice is the packet as a peer sends it that owns the VIP and has chosen alice.
func (r record) chosenForAlice() record {
	// The first octets from the limits of route that are the positions of peer and alice among the stations.
	r.SrcMAC, r.DstMAC = 193, 163
	return r
}

// lives are connections from their beginning to their end, told in records. Source and destination come in front.
func lives() map[string][]record {
	open := []record{podSays(), clientSays(), podSays(), clientSays("P.")}
	talk := []record{clientSays("P."), podSays("."), clientSays(), clientSays("S"), podSays(), clientSays()}
	then := func(more ...record) []record { return append(slices.Clone(open), more...) }
	return map[string][]record{
		"opens and talks":          open,
		"client closes":            then(clientSays("F."), podSays("."), podSays("F."), clientSays("."), clientSays("S")),
		"pod closes":               then(podSays("F."), clientSays("F."), podSays("."), clientSays("S"), podSays("S.")),
		"client resets":            then(clientSays("R"), podSays("P."), clientSays("S"), podSays("S."), clientSays(".")),
		"pod resets":               then(podSays("R."), clientSays("P."), clientSays("S"), podSays("S.")),
		"SYN again":                {clientSays("S"), podSays(), podSays(), clientSays("S"), clientSays()},
		"SYN on a live connection": then(clientSays("S"), podSays("S."), clientSays(".")),
		"refused":                  {podSays("R."), clientSays("S"), podSays("R.")},
		"reset before it opens":    {podSays(), clientSays("R"), clientSays("."), clientSays("S")},
		"FIN confirms":             {podSays(), clientSays("F."), podSays("F."), clientSays("S")},
		"simultaneous close":       then(clientSays("F."), podSays("F."), clientSays("F."), podSays(".")),
		"errors":                   then(routerSays(0), routerSays(2), podErrs(1), clientSays("R"), routerSays(3), podErrs(4)),
		"errors before it opens": {
			routerSays(3), podErrs(0), podSays(), podErrs(1), routerSays(2), clientSays(), routerSays(0),
		},
		"errors when its backend goes": slices.Concat(open, everywhere(removed), []record{routerSays(2), podErrs(1)},
			everywhere(moved), []record{routerSays(2), podErrs(1)}, worldChanges(0, withdrawn),
			[]record{routerSays(2), podErrs(1)}),
		"its Service has no backend": slices.Concat(everywhere(emptied), open, []record{clientSays("F.")},
			everywhere(reverted), open, worldChanges(0, emptied), []record{clientSays("."), clientSays("S")},
			[]record{{Kind: kindChange, Dst: 1, Extra: byte(exhausted)}, clientSays("S"), clientSays(".")}),
		"its backend leaves": slices.Concat(open, everywhere(leaves), []record{clientSays("."), begins(1, 13)},
			everywhere(restored), []record{begins(7, 13)}, everywhere(reordered), []record{begins(0, 13), begins(1, 13)}),
		"seen from the middle":       {clientSays("P."), podSays("."), clientSays("F."), podSays("F.")},
		"a second one on its tuple":  then(begins(0, 4), begins(3, 4), begins(4, 4), begins(6, 4)),
		"after a reset, another VIP": then(clientSays("R"), begins(0, 4), begins(3, 4), begins(4, 4), begins(6, 4)),
		"its backend goes":           slices.Concat(open, everywhere(removed), talk, everywhere(restored), talk),
		"its table changes": slices.Concat(
			[]record{clientSays("S")}, everywhere(reordered), talk, everywhere(reverted), talk),
		"its table changes and its backend moves": slices.Concat(
			open, everywhere(reordered), everywhere(moved), talk, everywhere(reverted), talk),
		"its backend moves":   slices.Concat(open, everywhere(moved), talk, everywhere(restored), talk),
		"half-open, it moves": slices.Concat(everywhere(moved), []record{clientSays("S"), podSays()}, talk),
		"its VIP goes":        slices.Concat(open, worldChanges(0, withdrawn), talk, worldChanges(0, granted), talk),
		"its VIP goes at once": slices.Concat(worldChanges(0, withdrawn), talk, worldChanges(0, yielded), talk,
			[]record{clientSays("R"), clientSays("S")}),
		"beside a pod with the node's MAC": besideSharing(),
		"a peer chooses alice": then(
			clientSays().chosenForAlice(), podSays(), clientSays(), clientSays("S").chosenForAlice()),
		"a peer chooses alice, who was reset": then(
			clientSays("R"), clientSays("S").chosenForAlice(), podSays(), clientSays()),
	}
}

// besideSharing ends a life and begins it anew while a pod in passthru mode is attached, which gets some of it.
func besideSharing() []record {
	const node, vip = 2, 0 // among hosts
	out := slices.Concat([]record{clientSays("R"), {Kind: kindChange, Extra: byte(shared)}}, everywhere(toSharing))
	for _, r := range []record{
		asksFor(node, vip), clientSays("S"), podSays(), clientSays("."), routerSays(0), podErrs(1), podSays("P."),
	} {
		out = append(out, r, enters())
	}
	return out
}

// firsts are the ways in which a life begins.
func firsts() map[string]record {
	return map[string]record{
		"client to a local pod":             begins(0, 1),
		"client to any pod":                 begins(0, 0),
		"client's other port to any pod":    begins(1, 0),
		"port 0 to any pod":                 begins(7, 0),
		"client to any pod of a peer's VIP": begins(0, 2),
		"far client to any pod":             begins(2, 0),
		"client to a remote pod":            begins(0, 5),
		"client to a pod that a peer chose": begins(0, 4).chosenForAlice(),
		"sibling to a local pod":            begins(3, 1),
		"sibling to any pod":                begins(3, 0),
		"pod to itself":                     begins(4, 1),
		"node to a local pod":               begins(6, 1),
		"node to a remote pod":              begins(6, 5),
		"node to any pod":                   begins(6, 0),
		"FIN to a local pod":                says(begins(0, 1), []string{"F."}),
		"RST to a local pod":                says(begins(0, 1), []string{"R"}),
		"client that is kept":               begins(0, 13),
		"client of few":                     begins(0, 12),
		"far client, who is none of few":    begins(2, 12),
		"kept client's datagram":            asks(0, 13),
		"client to nobody":                  begins(0, 8),
		"sibling to nobody":                 begins(3, 8),
		"datagram to nobody":                asks(0, 8),
		"client's datagram":                 asks(0, 0),
		"client's other datagram":           asks(1, 0),
		"far client's datagram":             asks(2, 0),
		"datagram to a remote pod":          asks(0, 5),
		"sibling's datagram":                asks(3, 1),
		"pod's datagram to itself":          asks(4, 1),
		"node's datagram":                   asks(6, 0),
	}
}

// script writes records, which speak of one family. A change is one of it too.
func script(f family, records ...record) []byte {
	var b []byte
	for _, r := range records {
		if f == ipv6 {
			r.Hook |= 128
		}
		b = append(b, r.bytes()...)
	}
	return b
}

func TestProgramsAgreeWithTheModelOnEveryLife(t *testing.T) {
	if at := (record{}).chosenForAlice(); pick(stations, at.SrcMAC) != peer || pick(stations, at.DstMAC) != alice.MAC {
		t.Fatal("stations have moved: chosenForAlice names others")
	}
	w := newTwin(t)
	eachFamily(t, func(t *testing.T, f family) {
		for how, first := range firsts() {
			for name, rest := range lives() {
				t.Run(how+"/"+name, func(t *testing.T) {
					w.mustAgree(t, script(f, append([]record{first}, rest...)...))
				})
			}
		}
	})
}

// Whatever the life, it must reach the programs' memory: a script of which nothing is remembered tests little.
func TestLivesReachEveryMemory(t *testing.T) {
	eachFamily(t, testLivesReachEveryMemory)
}

func testLivesReachEveryMemory(t *testing.T, f family) {
	w := newTwin(t)
	open := lives()["opens and talks"]
	remembered := func(s []byte) [4]bool {
		if err := w.play(s, nil); err != nil {
			t.Fatal(err)
		}
		return [4]bool{
			w.Flows(w.LbMaps.Flows) != "", w.Flows(w.HalfOpen) != "", w.Flows(w.Datagrams) != "", w.Choices() != "",
		}
	}
	for how, want := range map[string][4]bool{
		"client to a local pod":    {true, false, false, false},
		"sibling to a local pod":   {true, false, false, false},
		"node to a local pod":      {true, false, false, false},
		"pod to itself":            {true, false, false, false},
		"FIN to a local pod":       {true, false, false, false},
		"client to a remote pod":   {false, false, false, true},
		"pod's datagram to itself": {false, false, true, false},
	} {
		if got := remembered(script(f, append([]record{firsts()[how]}, open...)...)); got != want {
			t.Errorf("%s: flows, half_open, datagrams, selections = %t, want %t", how, got, want)
		}
	}
}

// What a pod in passthru mode says to the node goes up to it, and so do the answers to what the node asks.
func TestLivesReachTheNode(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newTwin(t)
		const node, vip = 2, 0 // among hosts
		for name, s := range map[string][]record{
			"a reply":   append([]record{firsts()["node to any pod"]}, besideSharing()...),
			"an answer": {{Kind: kindChange, Extra: byte(shared)}, asksFor(node, vip), enters()},
		} {
			before := w.Count(bpftest.Ingress, "TO_NODE")
			if err := w.play(script(f, s...), nil); err != nil {
				t.Fatal(err)
			}
			if w.Count(bpftest.Ingress, "TO_NODE") == before {
				t.Errorf("%s does not reach the node", name)
			}
		}
	})
}
