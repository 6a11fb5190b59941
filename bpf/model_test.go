// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/bpf/bpftest"
	"github.com/sluice-lb/sluice/bpf/bpftest/model"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// toMixed and peerMixed are Services with backends of every kind: their flows end here, elsewhere, or where they began.
var (
	toMixed   = netip.AddrPortFrom(vip, 85)
	peerMixed = netip.AddrPortFrom(peerVIP, 85)
	// toKept keeps its clients with one of the same backends.
	toKept = netip.AddrPortFrom(vip, 87)
)

// twin is the programs and the model in one world: that of newWorld in both families, and the mixed Services.
type twin struct {
	*bpftest.LB
	model   *model.Node
	mixed   []twinService // for each family and protocol: mixedAt
	changed bool          // since the world was made
	shared  bool          // carol is attached
	made    []byte        // what the programs made of the last frame
	action  bpftest.Action
	reason  string
}

// twinService is one Service in both.
type twinService struct {
	family   family
	programs *bpftest.Service
	model    *model.Service
}

// use gives both one of mixedTables.
func (s twinService) use(table int) {
	s.programs.UseTable(1 + table) // the first is what AddService made
	s.model.SetTable(mixedTables[table]...)
}

var mixedAt = []netip.AddrPort{toMixed, peerMixed, toKept}

// vips are those of the world.
var vips = []struct {
	addr  netip.Addr
	owned bool
}{{vip, true}, {peerVIP, false}}

// mixedBackends are in the order of their slots.
var mixedBackends = []bpftest.Backend{
	{Pod: alice, Port: target, Local: true},
	{Pod: bob, Port: target, Local: true},
	{Pod: remi, Port: target},
	{Pod: zoe, Port: target},
	{Pod: carol, Port: target, Local: true},
}

// mixedTables are the tables of a mixed Service: positions of backends.
var mixedTables = [][]int{{0, 1, 2, 3}, {3, 2, 0, 1, 2}, {4, 2, 4, 0}, {}}

// limited are the kinds of answers that have limits.
var limited = []struct {
	programs bpftest.Answer
	model    model.Answer
}{{bpftest.Echoes, model.Echo}, {bpftest.Resets, model.Reset}, {bpftest.Unreachables, model.Unreachable}}

// forLong is longer than any test, in units of 2^30 ns.
const forLong = 1 << 20

func newTwin(t testing.TB) *twin {
	t.Helper()
	testkit.Require(t, testkit.BPF)
	// Room enough that nothing is evicted, whatever the number of CPUs.
	roomy := map[string]uint32{"half_open": 1 << 14, "datagrams": 1 << 14, "selections": 1 << 14, "affinities": 1 << 14}
	w := &twin{LB: bpftest.Load(t, bpftest.Config{MaxEntries: roomy}), model: model.New(bpftest.Master)}
	w.model.Slot, w.model.Port = bpftest.Slot, func() uint16 { return sourcePort(w.made) }
	w.model.ClientSlot = bpftest.ClientSlot
	w.AddPeer(peer)
	w.model.Peers[peer] = true
	for _, f := range []family{ipv4, ipv6} {
		w.populate(f)
	}
	return w
}

func (w *twin) populate(f family) {
	w.AddNode(f.addr(node))
	w.model.AddOwn(f.addr(node))
	for _, p := range []bpftest.Pod{alice, bob} {
		w.AddPod(f.pod(p))
		w.model.AddPod(p.MAC, f.addr(p.Addr))
	}
	for _, v := range vips {
		w.AddVIP(f.addr(v.addr), v.owned)
		w.model.AddVIP(f.addr(v.addr), v.owned)
	}
	for _, proto := range []uint8{bpftest.ProtoTCP, bpftest.ProtoUDP} {
		for _, at := range []netip.AddrPort{toAlice, peerAlice, zeroTarget} {
			w.addService(f, proto, at, mixedBackends[:1])
		}
		w.addService(f, proto, toBob, mixedBackends[1:2])
		w.addService(f, proto, toRemi, mixedBackends[2:3])
		w.addService(f, proto, peerRemi, mixedBackends[2:3])
		w.addService(f, proto, toNothing, nil)
		few := w.addService(f, proto, toFew, mixedBackends[:1])
		few.programs.Restrict(ranges(f)...)
		few.model.Restricted, few.model.Ranges = true, ranges(f)
		for _, at := range mixedAt {
			s := w.addService(f, proto, at, mixedBackends)
			if at == toKept {
				s.programs.KeepClients(forLong)
				s.model.Keeps = true
			}
			for _, table := range mixedTables {
				s.programs.SetTable(table...)
			}
			s.use(0)
			w.mixed = append(w.mixed, s)
		}
	}
}

func (w *twin) addService(f family, proto uint8, at netip.AddrPort, backends []bpftest.Backend) twinService {
	var translated []bpftest.Backend
	var same []model.Backend
	for _, b := range backends {
		b = f.backend(b)
		translated = append(translated, b)
		same = append(same, modelBackend(b))
	}
	return twinService{f, w.AddService(proto, f.at(at), translated...), w.model.AddService(proto, f.at(at), same...)}
}

func modelBackend(b bpftest.Backend) model.Backend {
	return model.Backend{At: b.Pod.At(b.Port), MAC: b.Pod.MAC, Local: b.Local, Leaves: b.Leaves}
}

// change is what happens to the world between packets.
type change byte

const (
	removed     change = iota // the backend is gone
	moved                     // the backend is on the other side: local or elsewhere
	leaves                    // the backend takes no new flows from clients that it has kept
	restored                  // the backend is as it was
	reverted                  // the Service has its first table
	reordered                 // the Service has another table
	toSharing                 // the Service has a table of carol, and few others
	emptied                   // the Service has no backend for new flows
	withdrawn                 // the VIP is not served here
	granted                   // the VIP is served here, and owned
	yielded                   // the VIP is served here, and owned by a peer
	exhausted                 // of one kind, no more answers are given
	replenished               // they are again
	joined                    // the pods are in bridge mode
	reflected                 // the pods are in vepa mode
	parted                    // one pod is in private mode, the others are in vepa mode
	shared                    // carol is attached, whose MAC is the master's
	alike                     // she is, and an ipvlan
	routed                    // she is, and an ipvlan in mode l3
	unshared                  // she is not
	changes
)

func (c change) String() string {
	return [changes]string{
		"removed", "moved", "leaves", "restored", "reverted", "reordered", "to sharing", "emptied", "withdrawn", "granted",
		"yielded", "exhausted", "replenished", "joined", "reflected", "parted", "shared",
		"alike", "routed", "unshared",
	}[c]
}

// change changes one backend of a mixed Service, one VIP, one limit, or the mode of the pods, for both.
func (w *twin) change(service, position int, c change) {
	w.changed = true
	if c >= joined {
		w.changeMode(c)
		return
	}
	if c >= exhausted {
		a := limited[position%len(limited)]
		w.Allow(a.programs, c == replenished)
		w.model.Exhausted[a.model] = c == exhausted
		return
	}
	if c >= withdrawn {
		addr := w.mixed[service].family.addr(vips[service%len(vips)].addr)
		w.RemoveVIP(addr)
		w.model.RemoveVIP(addr)
		if c != withdrawn {
			w.AddVIP(addr, c == granted)
			w.model.AddVIP(addr, c == granted)
		}
		return
	}
	s := w.mixed[service]
	b := s.family.backend(mixedBackends[position])
	switch c {
	case reverted, reordered, toSharing, emptied:
		table := int(c - reverted)
		s.use(table)
		return
	case removed:
		if _, ok := s.model.Backend(position); ok {
			s.programs.RemoveBackend(position)
			s.model.RemoveBackend(position)
		}
		return
	case moved:
		b.Local = !b.Local
	case leaves:
		b.Leaves = true
	}
	s.programs.SetBackend(position, b)
	s.model.SetBackend(position, modelBackend(b))
}

func (w *twin) changeMode(c change) {
	switch {
	case c <= parted:
		mode := map[change]bpftest.Mode{joined: bpftest.Bridge, reflected: bpftest.VEPA, parted: bpftest.Private}[c]
		for _, f := range []family{ipv4, ipv6} {
			w.AddPod(in(mode, f.pod(alice)))
			w.AddPod(in(min(mode, bpftest.VEPA), f.pod(bob)))
		}
		w.model.Apart, w.model.Private[alice.MAC] = c != joined, c == parted
	case c == shared || c == alike || c == routed:
		mode := map[change]bpftest.Mode{shared: bpftest.Bridge, alike: bpftest.IPVlan, routed: bpftest.IPVlanL3}[c]
		for _, f := range []family{ipv4, ipv6} {
			w.AddPod(in(mode, f.pod(carol)))
			w.model.AddPod(carol.MAC, f.addr(carol.Addr))
		}
		w.model.IPVlan, w.model.Routed, w.shared = c != shared, c == routed, true
	case c == unshared && w.shared:
		for _, f := range []family{ipv4, ipv6} {
			w.RemovePod(f.pod(carol))
			w.model.RemovePod(carol.MAC, f.addr(carol.Addr))
		}
		w.model.IPVlan, w.model.Routed, w.shared = false, false, false
	}
}

// restart ends all flows and makes the world as it was.
func (w *twin) restart() {
	w.Forget()
	w.model.Forget()
	for kind := range limited { // a script uses some of it up
		w.change(0, kind, replenished)
	}
	if !w.changed {
		return
	}
	for service := range w.mixed {
		for position := range mixedBackends {
			w.change(service, position, restored)
		}
		w.change(service, 0, reverted)
	}
	for service := range w.mixed {
		w.change(service, 0, map[bool]change{true: granted, false: yielded}[vips[service%len(vips)].owned])
	}
	w.changeMode(joined)
	w.changeMode(unshared)
	w.changed = false
}

// step gives both one frame and compares what they make of it.
func (w *twin) step(f model.Frame) error {
	run := bpftest.Run{Dir: bpftest.Direction(f.Dir), Frame: f.Bytes, Arrived: f.Arrived}
	if hasFullChecksum(f.Bytes) && !w.mayRefuse(f.Bytes) {
		run.Flags = bpftest.ChecksumComplete
	}
	got, err := w.Try(run)
	if err != nil {
		return err
	}
	w.made, w.action, w.reason = got.Frame, got.Action, got.Reason
	want := w.model.Step(f)
	var errs []error
	if got.Action != bpftest.Action(want.Action) || got.Reason != want.Reason {
		errs = append(errs, fmt.Errorf("the programs say %s (%s), the model says %s (%s)",
			got.Action, got.Reason, want.Action, want.Reason))
	}
	if want.Action != model.Drop && got.Action != bpftest.Drop && !bytes.Equal(want.Frame, got.Frame) {
		diff := diffLines(bpftest.Text(want.Frame), bpftest.Text(got.Frame))
		if diff == "" { // in octets that no text shows
			diff = cmp.Diff(want.Frame, got.Frame)
		}
		errs = append(errs, fmt.Errorf("frames (-model +programs):\n%s", diff))
	}
	return errors.Join(errs...)
}

// hasFullChecksum tells whether skb->csum means something after the run. Nobody reads that of ARP. A solicitation of
// another length than its answer is cut or grows, and the kernel then forgets the sum (bpf_skb_change_tail), which a test
// run does not see.
func hasFullChecksum(frame []byte) bool {
	switch binary.BigEndian.Uint16(frame[12:]) {
	case bpftest.EtherIPv4:
		return true
	case bpftest.EtherIPv6:
		const kind = 14 + 40
		return frame[20] != bpftest.ProtoICMPv6 || len(frame) <= kind ||
			frame[kind] != bpftest.ICMPv6NeighborSolicit || len(frame) == lengthAfter("ND_REPLY", frame)
	}
	return false
}

// mayRefuse tells whether the answer may be one of another length than the frame: see hasFullChecksum.
func (w *twin) mayRefuse(frame []byte) bool {
	in, ok := bpftest.ReadTransport(bpftest.WithoutPriority(frame))
	s := w.model.Services[model.Frontend{Proto: in.Proto, At: in.Dst}]
	return ok && s != nil && len(s.Table) == 0
}

func diffLines(want, got string) string {
	if want == got {
		return "" // at once: this is the usual case
	}
	return cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n"))
}

// compare tells how the two memories differ.
func (w *twin) compare() error {
	var errs []error
	for _, m := range []struct{ name, model, programs string }{
		{"flows", w.model.Flows.Text(), w.Flows(w.LbMaps.Flows)},
		{"half_open", w.model.HalfOpen.Text(), w.Flows(w.HalfOpen)},
		{"datagrams", w.model.Datagrams.Text(), w.Flows(w.Datagrams)},
		{"selections", w.model.ChoicesText(), w.Choices()},
		{"affinities", w.model.KeptText(), w.Affinities()},
	} {
		if diff := diffLines(m.model, m.programs); diff != "" {
			errs = append(errs, fmt.Errorf("%s (-model +programs):\n%s", m.name, diff))
		}
	}
	return errors.Join(errs...)
}

// mustAgree plays a script to both. Where they part, it is played again, to tell at which frame: the memories are
// compared after each one then.
func (w *twin) mustAgree(t *testing.T, script []byte) {
	t.Helper()
	w.For(t)
	err := w.play(script, nil)
	if err == nil {
		return
	}
	var log strings.Builder
	if again := w.play(script, &log); again != nil {
		t.Fatalf("%v\nafter\n%s", again, log.String())
	}
	t.Fatalf("%v\nonce, and not when repeated", err)
}

// play gives both a script, and tells where they part. With a log, it writes the script in words.
func (w *twin) play(script []byte, log *strings.Builder) error {
	w.restart()
	for s := (&scriptReader{twin: w, rest: script}); s.next(); {
		if s.frame.Bytes == nil {
			if log != nil {
				fmt.Fprintf(log, "--- %s\n", s.said)
			}
			continue
		}
		if log != nil {
			fmt.Fprintf(log, "--- %s arrived %t\n%s", s.frame.Dir, s.frame.Arrived, bpftest.Text(s.frame.Bytes))
		}
		if err := w.step(s.frame); err != nil {
			return err
		}
		s.saw(w.action, w.reason, w.made)
		if log != nil {
			if err := w.compare(); err != nil {
				return err
			}
		}
	}
	return w.compare()
}
