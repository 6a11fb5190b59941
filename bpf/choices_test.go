// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"testing"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/bpf/bpftest"
)

// zoe is a second pod elsewhere.
var zoe = pod(0x0d, "192.0.2.121")

// sentTo is a segment of the client to the remote service, and where it goes.
func sentTo(p bpftest.Pod, flags string) step {
	in := fromClient(toRemi, flags)
	return ingress(in, bpftest.ToWire, "REMOTE").becomes(in.From(bpftest.Master).To(p.MAC)).called(flags)
}

func TestChoiceOfARemoteBackend(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		addZoe := func(w *world) {
			s := w.tcp[toRemi]
			s.SetTable(s.AddBackend(bpftest.Backend{Pod: zoe, Port: target}))
		}
		tests := map[string]struct {
			first []step
			then  func(w *world)
			last  []step
			want  string // selections
		}{
			"SYN repeated after the table changed": {
				first: []step{sentTo(remi, "S")}, then: addZoe, last: []step{sentTo(remi, "S"), sentTo(remi, ".")},
				want: "backend 3 established",
			},
			"established after the table changed": {
				first: []step{sentTo(remi, "S"), sentTo(remi, ".")},
				then:  addZoe,
				last:  []step{sentTo(remi, "P."), sentTo(remi, "F.")},
				want:  "backend 3 established",
			},
			"new SYN on an established tuple": {
				first: []step{sentTo(remi, "S"), sentTo(remi, ".")},
				then:  addZoe,
				last:  []step{sentTo(zoe, "S"), sentTo(zoe, "S")},
				want:  "backend 13",
			},
			"mid-stream packet of an unknown tuple": {
				first: []step{sentTo(remi, "P.")}, then: addZoe, last: []step{sentTo(remi, "P.")},
				want: "backend 3 established",
			},
			"backend gone": {
				first: []step{sentTo(remi, "S"), sentTo(remi, ".")},
				then:  func(w *world) { addZoe(w); w.tcp[toRemi].RemoveBackend(0) },
				last:  []step{sentTo(zoe, "P.")},
				want:  "backend 13 established",
			},
		}
		for name, tc := range tests {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, f, bpftest.Config{})
				w.mustSteps(t, tc.first...)
				tc.then(w)
				w.mustSteps(t, tc.last...)
				w.mustEqualText(t, "selections", fmt.Sprintf("tcp %s > %s => %s", client, toRemi, tc.want), w.Choices())
			})
		}
	})
}

// A pod that is attached here while its address stays known gets a flow, and the choice goes.
func TestChoiceEndsWhenItsBackendBecomesLocal(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		w.mustSteps(t, sentTo(remi, "S"), sentTo(remi, "."))
		w.AddPod(remi)
		w.tcp[toRemi].SetBackend(0, bpftest.Backend{Pod: remi, Port: target, Local: true})
		in := fromClient(toRemi, "P.")
		w.mustStep(t, ingress(in, bpftest.OK, "NEW_FLOW").becomes(in.To(remi.MAC).Dst(remi.At(target))))
		w.mustEqualText(t, "selections", "", w.Choices())
		w.mustStep(t, ingress(in, bpftest.OK, "LOCAL").becomes(in.To(remi.MAC).Dst(remi.At(target))))
	})
}

// The choice is what the client's connection lives by, whatever a newer table says.
func TestChoiceWinsOverTheTableWhenItsBackendBecomesLocal(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		s := w.tcp[toRemi]
		w.mustSteps(t, sentTo(remi, "S"), sentTo(remi, "."))
		w.AddPod(remi)
		s.SetBackend(0, bpftest.Backend{Pod: remi, Port: target, Local: true})
		s.SetTable(s.AddBackend(bpftest.Backend{Pod: zoe, Port: target}))
		in := fromClient(toRemi, "P.")
		w.mustStep(t, ingress(in, bpftest.OK, "NEW_FLOW").becomes(in.To(remi.MAC).Dst(remi.At(target))))
		w.mustEqualText(t, "selections", "", w.Choices())
	})
}

// This node owned the VIP and chose remi; then a peer owned it and chose alice; now it is ours again.
func TestChoiceEndsWhenAnotherOwnerPicksALocalPod(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		s := w.tcp[toRemi]
		w.mustSteps(t, sentTo(remi, "S"), sentTo(remi, "."))
		s.AddBackend(bpftest.Backend{Pod: alice, Port: target, Local: true})
		in := fromClient(toRemi, "P.")
		w.mustSteps(t,
			ingress(in.From(peer).To(alice.MAC), bpftest.OK, "NEW_FLOW").becomes(atAlice(in).From(peer)),
			ingress(in, bpftest.OK, "LOCAL").becomes(atAlice(in)))
		w.mustEqualText(t, "selections", "", w.Choices())
	})
}

// A frame that a peer sent to alice is refused, because her tuple is taken. The client's connection to remi goes on.
func TestChoiceOutlivesARefusedFlow(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		w.tcp[toRemi].AddBackend(bpftest.Backend{Pod: alice, Port: target, Local: true})
		w.mustSteps(t, delivered("S", "NEW_FLOW"), sentTo(remi, "S"), sentTo(remi, "."))
		w.mustStep(t, ingress(fromClient(toRemi, "P.").From(peer).To(alice.MAC), bpftest.Drop, "COLLISION"))
		want := fmt.Sprintf("tcp %s > %s => backend 3 established", client, toRemi)
		w.mustEqualText(t, "selections", want, w.Choices())
	})
}

func TestDatagramsKeepTheirChoice(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		s := w.udp[toRemi]
		in := bpftest.UDP(client, toRemi).From(router).To(bpftest.Master)
		sent := in.From(bpftest.Master)
		w.mustStep(t, ingress(in, bpftest.ToWire, "REMOTE").becomes(sent.To(remi.MAC)))
		s.SetTable(s.AddBackend(bpftest.Backend{Pod: zoe, Port: target}))
		w.mustStep(t, ingress(in, bpftest.ToWire, "REMOTE").becomes(sent.To(remi.MAC)))
		s.RemoveBackend(0)
		w.mustStep(t, ingress(in, bpftest.ToWire, "REMOTE").becomes(sent.To(zoe.MAC)))
	})
}

func TestTrafficIsCountedPerBackend(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		w := newWorld(t, f, bpftest.Config{})
		w.mustSteps(t, handshake(toAlice)...)
		w.mustSteps(t, delivered("P.", "LOCAL"), sentTo(remi, "S"), sentTo(remi, "."))
		size := uint64(len(w.bytes(fromClient(toAlice, "S"))))
		empty := size - uint64(len("hello"))
		want := map[string]bpf.LbTraffic{
			"alice": {Flows: 1, Packets: 3, Bytes: 2*empty + size},
			"remi":  {Flows: 1, Packets: 2, Bytes: 2 * size},
		}
		got := map[string]bpf.LbTraffic{"alice": w.tcp[toAlice].Traffic(0), "remi": w.tcp[toRemi].Traffic(0)}
		for name := range want {
			if got[name] != want[name] {
				t.Errorf("traffic of %s = %+v, want %+v", name, got[name], want[name])
			}
		}
	})
}
