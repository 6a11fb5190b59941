// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

// aliceFlow gives the two lines that the connection of the client to alice leaves in a map, with the flags of each.
func aliceFlow(forward, reply string) string {
	return lines(
		fmt.Sprintf("tcp %s > %s => %s > %s%s", alice.At(target), client, toAlice, client, reply),
		fmt.Sprintf("tcp %s > %s => %s > %s to %s%s", client, toAlice, client, alice.At(target), alice.MAC, forward))
}

func lines(l ...string) string { return strings.Join(l, "\n") }

// delivered is a segment of the client that alice gets.
func delivered(flags string, reason string) step {
	in := fromClient(toAlice, flags)
	return ingress(in, bpftest.OK, reason).becomes(atAlice(in)).called(flags)
}

// returned is a segment of alice that the client gets from the VIP.
func returned(flags string) step {
	return egress(fromAlice(flags), bpftest.OK, "UNNAT").becomes(fromAlice(flags).Src(toAlice)).called(flags)
}

func TestTCPHandshakeConfirmsTheFlow(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		steps := handshake(toAlice)
		w.mustStep(t, steps[0])
		w.mustEqualText(t, "half_open after SYN", aliceFlow("", " reply"), w.Flows(w.HalfOpen))
		w.mustStep(t, delivered("S", "LOCAL"))
		w.mustEqualText(t, "half_open after the SYN again", aliceFlow("", " reply"), w.Flows(w.HalfOpen))
		w.mustStep(t, steps[1])
		w.mustEqualText(t, "half_open after SYN-ACK", aliceFlow(" synack-seen", " reply"), w.Flows(w.HalfOpen))

		wrong := steps[2].in.Ack(777)
		w.mustStep(t, ingress(wrong, bpftest.OK, "LOCAL").becomes(atAlice(wrong)))
		w.mustEqualText(t, "flows after an ACK of something else", "", w.Flows(w.LbMaps.Flows))
		reset := steps[2].in.Flags("R.")
		other := fromPort(41000)
		w.mustStep(t, ingress(reset.Src(other), bpftest.OK, "NEW_FLOW").becomes(atAlice(reset.Src(other))))

		w.mustStep(t, steps[2])
		w.mustEqualText(t, "flows after the ACK", aliceFlow("", " reply"), w.Flows(w.LbMaps.Flows))
		if left := w.Flows(w.HalfOpen); strings.Contains(left, f.at(client).String()) {
			t.Errorf("half_open still holds the confirmed flow:\n%s", left)
		}
	})
}

func TestTCPResetConfirmsNothing(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		steps := handshake(toAlice)
		reset := steps[2].in.Flags("R.")
		w.mustSteps(t, steps[0], steps[1], ingress(reset, bpftest.OK, "LOCAL").becomes(atAlice(reset)))
		w.mustEqualText(t, "flows", "", w.Flows(w.LbMaps.Flows))
		w.mustEqualText(t, "half_open", aliceFlow(" reset synack-seen", " reply reset"), w.Flows(w.HalfOpen))
	})
}

func TestTCPMidStreamPacketOfAnUnknownFlowIsHalfOpen(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		w.mustSteps(t, delivered("P.", "NEW_FLOW"), delivered("P.", "LOCAL"), returned("."))
		w.mustEqualText(t, "half_open", aliceFlow("", " reply"), w.Flows(w.HalfOpen))
		w.mustEqualText(t, "flows", "", w.Flows(w.LbMaps.Flows))
	})
}

func TestTCPClose(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		tests := map[string]struct {
			steps    []step
			forward  string // flags left on the direction towards the pod
			reply    string
			reopened string // reason of a SYN that follows
		}{
			"live":         {nil, "", " reply", "LOCAL"},
			"client's FIN": {[]step{delivered("F.", "LOCAL")}, " fin", " reply peer-fin", "LOCAL"},
			"pod's FIN":    {[]step{returned("F.")}, " peer-fin", " reply fin", "LOCAL"},
			"both FINs": {
				[]step{delivered("F.", "LOCAL"), returned("F.")}, " fin peer-fin", " reply fin peer-fin", "NEW_FLOW",
			},
			"client's reset": {[]step{delivered("R", "LOCAL")}, " reset", " reply reset", "NEW_FLOW"},
			"pod's reset":    {[]step{returned("R.")}, " reset", " reply reset", "NEW_FLOW"},
		}
		for name, tc := range tests {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, f, bpftest.Config{})
				w.mustSteps(t, handshake(toAlice)...)
				w.mustSteps(t, tc.steps...)
				want := aliceFlow(tc.forward, tc.reply)
				w.mustEqualText(t, "flows", want, w.Flows(w.LbMaps.Flows))
				w.mustSteps(t, delivered(".", "LOCAL"), returned(".")) // what is still under way arrives
				w.mustStep(t, delivered("S", tc.reopened))
				if tc.reopened == "NEW_FLOW" {
					w.mustEqualText(t, "flows after reopening", "", w.Flows(w.LbMaps.Flows))
					w.mustEqualText(t, "half_open after reopening", aliceFlow("", " reply"), w.Flows(w.HalfOpen))
				}
			})
		}
	})
}

// The client's last ACK of the handshake was lost; its first segment to arrive ends the stream.
func TestTCPFinThatConfirmsIsNotedOnBothDirections(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		steps := handshake(toAlice)
		fin := steps[2].in.Flags("F.").Payload("bye")
		w.mustSteps(t, steps[0], steps[1], ingress(fin, bpftest.OK, "LOCAL").becomes(atAlice(fin)))
		w.mustEqualText(t, "flows", aliceFlow(" fin", " reply peer-fin"), w.Flows(w.LbMaps.Flows))
		w.mustStep(t, returned("F."))
		w.mustEqualText(t, "flows", aliceFlow(" fin peer-fin", " reply fin peer-fin"), w.Flows(w.LbMaps.Flows))
	})
}

func TestSYNOnAClosedFlowIsPlacedAnew(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		w.mustSteps(t, handshake(toAlice)...)
		w.tcp[toAlice].SetTable(w.tcp[toAlice].AddBackend(bpftest.Backend{Pod: bob, Port: target, Local: true}))
		w.mustSteps(t, delivered("S", "LOCAL"), delivered("P.", "LOCAL")) // still alice's: the connection lives
		w.mustStep(t, delivered("R", "LOCAL"))
		syn := fromClient(toAlice, "S")
		w.mustStep(t, ingress(syn, bpftest.OK, "NEW_FLOW").becomes(syn.To(bob.MAC).Dst(bob.At(target))))
	})
}

func TestHalfOpenFlowIsForgottenAfterAMinute(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		w.mustStep(t, delivered("S", "NEW_FLOW"))
		w.Age(w.HalfOpen, 58)
		w.mustStep(t, delivered("S", "LOCAL"))
		w.Age(w.HalfOpen, 62)
		w.mustStep(t, delivered("S", "NEW_FLOW"))
	})
}

func TestDatagramFlowStartsAnewAfterThreeMinutes(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		in := bpftest.UDP(client, toAlice).From(router).To(bpftest.Master)
		w.mustStep(t, ingress(in, bpftest.OK, "NEW_FLOW").becomes(atAlice(in)))
		w.udp[toAlice].SetTable(w.udp[toAlice].AddBackend(bpftest.Backend{Pod: bob, Port: target, Local: true}))
		w.Age(w.Datagrams, 178)
		w.mustStep(t, ingress(in, bpftest.OK, "LOCAL").becomes(atAlice(in)))
		w.Age(w.Datagrams, 182)
		w.mustStep(t, ingress(in, bpftest.OK, "NEW_FLOW").becomes(in.To(bob.MAC).Dst(bob.At(target))))
	})
}

func TestFlowInUseDoesNotAge(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		in := bpftest.UDP(client, toAlice).From(router).To(bpftest.Master)
		w.mustStep(t, ingress(in, bpftest.OK, "NEW_FLOW").becomes(atAlice(in)))
		w.mustStep(t, delivered("S", "NEW_FLOW"))
		for range 5 {
			w.Age(w.Datagrams, 100)
			w.Age(w.HalfOpen, 40)
			w.mustStep(t, ingress(in, bpftest.OK, "LOCAL").becomes(atAlice(in)))
			w.mustStep(t, delivered("S", "LOCAL"))
		}
	})
}

// Another CPU may note a later time than the one that this packet read before it looked.
func TestFlowSeenInTheFutureIsNotOld(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		in := bpftest.UDP(client, toAlice).From(router).To(bpftest.Master)
		w.mustStep(t, ingress(in, bpftest.OK, "NEW_FLOW").becomes(atAlice(in)))
		w.mustStep(t, delivered("S", "NEW_FLOW"))
		w.Age(w.Datagrams, ^uint32(0)-1) // two seconds ahead
		w.Age(w.HalfOpen, ^uint32(0)-1)
		w.mustStep(t, ingress(in, bpftest.OK, "LOCAL").becomes(atAlice(in)))
		w.Age(w.HalfOpen, ^uint32(0)-1)
		w.mustStep(t, delivered("S", "LOCAL"))
		w.Age(w.HalfOpen, ^uint32(0)-1)
		w.mustStep(t, ingress(fromClient(peerAlice, "S"), bpftest.Drop, "COLLISION"))
	})
}

func TestFullFlowsRefuseNewConnectionsAndKeepEstablishedOnes(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{MaxEntries: map[string]uint32{"flows": 2}})
		w.mustSteps(t, handshake(toAlice)...)
		second := handshake(toAlice)
		for i, s := range second {
			s.in, s.want = s.in.Src(fromPort(40001)), nil
			if i == 1 {
				s.in = fromAlice("S.").Seq(500).Dst(fromPort(40001))
			}
			got := w.Do(bpftest.Run{Dir: s.dir, Frame: w.bytes(s.in)})
			if i == 2 && (got.Action != bpftest.Drop || got.Reason != "FLOWS_FULL") {
				t.Errorf("ACK of one connection too many: verdict = %s (%s), want drop (FLOWS_FULL)", got.Action, got.Reason)
			}
		}
		w.mustSteps(t, delivered("P.", "LOCAL"), returned("P."))
		w.mustEqualText(t, "flows", aliceFlow("", " reply"), w.Flows(w.LbMaps.Flows))
	})
}

func TestSYNFloodEvictsNoEstablishedConnection(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{MaxEntries: map[string]uint32{"half_open": 64, "flows": 16}})
		w.mustSteps(t, handshake(toAlice)...)
		for p := uint16(1000); p < 3000; p++ {
			syn := fromClient(toAlice, "S").Src(fromPort(p))
			w.mustStep(t, ingress(syn, bpftest.OK, "NEW_FLOW").becomes(atAlice(syn)))
		}
		w.mustSteps(t, delivered("P.", "LOCAL"), returned("P."))
		w.mustEqualText(t, "flows", aliceFlow("", " reply"), w.Flows(w.LbMaps.Flows))
	})
}

func TestTupleOfAPodBelongsToOneVIPAtATime(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		second := fromClient(peerAlice, "S")
		taken := ingress(second, bpftest.Drop, "COLLISION").called("second VIP")
		free := ingress(second, bpftest.OK, "NEW_FLOW").becomes(atAlice(second)).called("second VIP")
		reply := fromAlice("S.")
		replied := egress(reply, bpftest.OK, "UNNAT").becomes(reply.Src(peerAlice)).called("reply of the second")
		closed := append(handshake(toAlice), delivered("F.", "LOCAL"), returned("F."))
		age := func(n uint32) func(w *world) {
			return func(w *world) { w.Age(w.LbMaps.Flows, n); w.Age(w.HalfOpen, n) }
		}
		tests := map[string]struct {
			first []step
			then  func(w *world)
			last  []step
		}{
			"half-open":            {handshake(toAlice)[:1], nil, []step{taken}},
			"half-open, old":       {handshake(toAlice)[:1], age(62), []step{free, replied}},
			"established":          {handshake(toAlice), nil, []step{taken}},
			"established and idle": {handshake(toAlice), age(10000), []step{taken}},
			"closed":               {closed, nil, []step{free, replied}},
			"one side closed":      {append(handshake(toAlice), delivered("F.", "LOCAL")), nil, []step{taken}},
			"reset":                {append(handshake(toAlice), delivered("R", "LOCAL")), nil, []step{free, replied}},
		}
		for name, tc := range tests {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, f, bpftest.Config{})
				w.mustSteps(t, tc.first...)
				if tc.then != nil {
					tc.then(w)
				}
				w.mustSteps(t, tc.last...)
				if len(tc.last) > 1 { // of the first connection nothing is left that could speak for the pod
					for _, m := range []string{w.Flows(w.LbMaps.Flows), w.Flows(w.HalfOpen)} {
						if strings.Contains(m, f.at(toAlice).String()) {
							t.Errorf("the first VIP's flow is still there:\n%s", m)
						}
					}
				}
			})
		}
	})
}

// A node that takes a connection over may see only its end, and must not keep it as a live one.
func TestTCPFlowThatBeginsWithItsEnd(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		tests := map[string]struct {
			flags          string
			forward, reply string // flags left on each direction
			second         step   // the same tuple to another VIP of the pod
		}{
			"FIN":         {"F.", " fin", " reply peer-fin", ingress(fromClient(peerAlice, "S"), bpftest.Drop, "COLLISION")},
			"RST":         {"R", " reset", " reply reset", openedAtPeerVIP()},
			"RST and FIN": {"FR.", " reset", " reply reset", openedAtPeerVIP()},
		}
		for name, tc := range tests {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, f, bpftest.Config{})
				w.mustStep(t, delivered(tc.flags, "NEW_FLOW"))
				w.mustEqualText(t, "half_open", aliceFlow(tc.forward, tc.reply), w.Flows(w.HalfOpen))
				w.mustStep(t, tc.second)
			})
		}
	})
}

func openedAtPeerVIP() step {
	in := fromClient(peerAlice, "S")
	return ingress(in, bpftest.OK, "NEW_FLOW").becomes(atAlice(in))
}
