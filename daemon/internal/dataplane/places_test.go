// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/foreign"
)

// each runs a test for each way of attaching, in a node of its own.
func each(t *testing.T, test func(n *node, mode AttachMode)) {
	t.Helper()
	for _, mode := range []AttachMode{AttachTCX, AttachClsact} {
		t.Run(string(mode), func(t *testing.T) {
			testkit.Require(t, testkit.TCX)
			test(newNode(t), mode)
		})
	}
}

// order gives what packets meet at a master's ingress: "ours", or a name.
func order(t testing.TB, d *Dataplane, m lb.Master) string {
	t.Helper()
	programs, err := d.programs(place{ifindex: m.Index, dir: bpf.LbDirectionDIRECTION_INGRESS})
	must(t, err)
	var names []string
	for _, p := range programs {
		switch {
		case p.ours:
			names = append(names, "ours")
		case p.id == 0:
			if name := p.filter; !slices.Contains(names, name) { // u32 lists its tables too
				names = append(names, name)
			}
		default:
			names = append(names, identify(p.id).name)
		}
	}
	return strings.Join(names, " ")
}

func expectOrder(t testing.TB, d *Dataplane, m lb.Master, want string) {
	t.Helper()
	if got := order(t, d, m); got != want {
		t.Errorf("packets meet %q, want %q", got, want)
	}
}

// before attaches a program where it runs before ours on a hook of that kind, as the mode's neighbours do.
func before(p *foreign.Program, mode AttachMode, at foreign.Place, handle uint32) (detach func()) {
	if mode == AttachTCX {
		return p.First(at)
	}
	return p.Filter(at, 1, handle)
}

func (n *node) openLogged(mode AttachMode) (*Dataplane, *bytes.Buffer) {
	n.t.Helper()
	var logged bytes.Buffer
	d, err := Open(Options{PinDir: n.pins, Attach: mode, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	must(n.t, err)
	n.t.Cleanup(func() {
		_ = d.Close()
		n.t.Log(logged.String())
	})
	return d, &logged
}

func expectHolds(t testing.TB, what, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%s does not hold %q:\n%s", what, want, text)
		}
	}
}

func TestAProgramThatWasThereBeforeUsComesBehind(t *testing.T) {
	each(t, func(n *node, mode AttachMode) {
		m := n.addMaster("eth1")
		other := foreign.Load(n.t, "other", foreign.Pass, frameLength)
		before(other, mode, foreign.Place{IfName: "eth1"}, 1)
		d := n.open(mode)
		n.apply(d, remoteState(m))
		expectOrder(n.t, d, m, "ours other")
		w := n.wire(m)
		w.send(10, toVIP)
		eventually(n.t, "frames to the VIP that were balanced", 10, func() int { return balanced(n.t, d) })
		w.send(7, toSomewhere)
		eventually(n.t, "frames that the other program saw, which are those that are not ours", 7, other.Seen)
		if issues := d.Issues(); len(issues) != 0 {
			n.t.Errorf("issues: %v", issues)
		}
	})
}

func TestAProgramThatCameBeforeOursIsPassedOnceAndThenReported(t *testing.T) {
	each(t, func(n *node, mode AttachMode) {
		m := n.addMaster("eth1")
		d, logged := n.openLogged(mode)
		s := remoteState(m)
		n.apply(d, s)
		w := n.wire(m)
		at := foreign.Place{IfName: "eth1"}
		ending := foreign.Load(n.t, "ending", foreign.Pass, frameLength)
		detach := before(ending, mode, at, 1)
		expectMoved(n.t, d, true)
		w.send(5, toVIP)
		eventually(n.t, "frames that ended at the other program", 5, ending.Seen)
		if got := balanced(n.t, d); got != 0 {
			n.t.Fatalf("%d frames were balanced behind a program that ends the chain", got)
		}

		n.apply(d, s)
		expectOrder(n.t, d, m, "ours ending")
		expectMoved(n.t, d, false)
		w.send(5, toVIP)
		eventually(n.t, "frames that were balanced", 5, func() int { return balanced(n.t, d) })
		expectHolds(n.t, "log", logged.String(), "ifname=eth1", "direction=ingress", `program \"ending\"`,
			fmt.Sprintf("id %d", ending.ID()), "went to the head of the chain again")
		if d.places.retaken.Load() != 1 || len(d.Issues()) != 0 {
			n.t.Errorf("retaken %d times, issues %v", d.places.retaken.Load(), d.Issues())
		}

		// It insists.
		detach()
		before(ending, mode, at, 2)
		expectMoved(n.t, d, true)
		n.apply(d, s)
		expectOrder(n.t, d, m, "ending ours") // we do not fight
		expectMoved(n.t, d, false)
		issues := d.Issues()
		if len(issues) != 1 || issues[0].Object != "Interface eth1" || issues[0].Reason != "ProgramAhead" {
			n.t.Fatalf("issues: %v", issues)
		}
		expectHolds(n.t, "issue", issues[0].Message, string(mode)+" ingress", `"ending"`, fmt.Sprintf("id %d", ending.ID()),
			"have it return TC", "when the agent starts")
		if got := d.places.aheadNow(); !slices.Contains(got, load{"eth1", "ingress", 1}) {
			n.t.Errorf("loads %v", got)
		}

		// A new agent begins at the head.
		must(n.t, d.Close())
		d = n.open(mode)
		n.apply(d, s)
		expectOrder(n.t, d, m, "ours ending")
		if len(d.Issues()) != 0 {
			n.t.Errorf("issues after a restart: %v", d.Issues())
		}
	})
}

func expectMoved(t testing.TB, d *Dataplane, want bool) {
	t.Helper()
	moved, err := d.placesMoved()
	must(t, err)
	if moved != want {
		t.Errorf("placesMoved() = %v, want %v", moved, want)
	}
}

// An agent may insist by loading its program anew each time, so that it has a new number.
func TestAnAgentThatInsistsWithNewProgramsWins(t *testing.T) {
	each(t, func(n *node, mode AttachMode) {
		m := n.addMaster("eth1")
		d := n.open(mode)
		s := state(m)
		n.apply(d, s)
		for i := range retakeLimit + 1 {
			before(foreign.Load(n.t, "insists", foreign.Next, 0), mode, foreign.Place{IfName: "eth1"}, uint32(i+1))
			n.apply(d, s)
			if first := strings.Fields(order(n.t, d, m))[0]; (first == "ours") != (i < retakeLimit) {
				n.t.Errorf("attempt %d: first is %s", i+1, first)
			}
		}
		if issues := d.Issues(); len(issues) != 1 {
			n.t.Errorf("issues: %v", issues)
		}
	})
}

func TestWhatIsNotOursReachesTheProgramsBehind(t *testing.T) {
	each(t, func(n *node, mode AttachMode) {
		m := n.addMaster("eth1")
		d := n.open(mode)
		n.apply(d, remoteState(m))
		at := foreign.Place{IfName: "eth1"}
		last := foreign.Load(n.t, "last", foreign.Next, frameLength)
		filter := foreign.Load(n.t, "filter", foreign.Drop, frameLength)
		wantLast := 0 // frames to the VIP too, where tcx comes before us
		if mode == AttachClsact {
			wantLast = 9
		}
		last.Last(at)
		filter.Filter(at, 2, 1)
		w := n.wire(m)
		w.send(9, toVIP)
		w.send(4, toSomewhere)
		eventually(n.t, "frames that are not ours at the last filter", 4, filter.Seen)
		eventually(n.t, "frames at the last tcx program", 4+wantLast, last.Seen)
		eventually(n.t, "frames balanced", 9, func() int { return balanced(n.t, d) })
	})
}

func TestOnTCXAForeignFilterAtPriorityOneGetsWhatIsNotOurs(t *testing.T) {
	n := newNode(t)
	testkit.Require(t, testkit.TCX)
	m := n.addMaster("eth1")
	filter := foreign.Load(t, "filter", foreign.Pass, frameLength)
	filter.Filter(foreign.Place{IfName: "eth1"}, 1, 0x51) // our own handle, were we on clsact
	d := n.open(AttachTCX)
	n.apply(d, remoteState(m))
	w := n.wire(m)
	w.send(9, toVIP)
	w.send(4, toSomewhere)
	eventually(t, "frames at the filter", 4, filter.Seen)
	eventually(t, "frames balanced", 9, func() int { return balanced(t, d) })
	expectOrder(t, d, m, "ours filter")
	n.apply(d, lb.State{Node: "a"})
	expectOrder(t, d, m, "filter")
}

// What is sent while we move, again and again, is balanced once: not lost, and not by both of our programs.
func TestGoingToTheHeadLosesNoPacket(t *testing.T) {
	each(t, func(n *node, mode AttachMode) {
		m := n.addMaster("eth1")
		d := n.open(mode)
		s := remoteState(m)
		n.apply(d, s)
		w := n.wire(m)
		stop, sent := make(chan struct{}), make(chan int, 1)
		go func() {
			count := 0
			for {
				select {
				case <-stop:
					sent <- count
					return
				default:
					w.send(1, toVIP)
					count++
				}
			}
		}()
		const moves = 15
		for i := range moves {
			// A name of its own each, so that we never give up.
			next := foreign.Load(n.t, fmt.Sprintf("next%d", i), foreign.Next, 0)
			before(next, mode, foreign.Place{IfName: "eth1"}, uint32(i+1))
			n.apply(d, s)
			if !strings.HasPrefix(order(n.t, d, m), "ours ") {
				n.t.Errorf("move %d: packets meet %q", i, order(n.t, d, m))
			}
		}
		close(stop)
		count := <-sent
		n.t.Logf("%d frames during %d moves", count, d.places.retaken.Load())
		if d.places.retaken.Load() != moves || count < 1000 {
			n.t.Errorf("%d moves and %d frames prove little", d.places.retaken.Load(), count)
		}
		eventually(n.t, "frames that were balanced", count, func() int { return balanced(n.t, d) })
	})
}

func TestAFilterOfAnotherKindAtPriorityOneLeavesUsTheNext(t *testing.T) {
	n := newNode(t)
	m := n.addMaster("eth1")
	at := foreign.Place{IfName: "eth1"}
	foreign.CatchAll(t, at, 1)
	d := n.open(AttachClsact)
	s := remoteState(m)
	n.apply(d, s)
	expectOrder(t, d, m, "u32 ours")
	issues := d.Issues()
	if len(issues) == 0 || issues[0].Reason != "ProgramAhead" {
		t.Fatalf("issues: %v", issues)
	}
	expectHolds(t, "issue", issues[0].Message, "filter u32", "priority 1", "higher priority number", "kernel with tcx")
	// Nothing of others is touched when we go.
	n.apply(d, lb.State{Node: "a"})
	expectOrder(t, d, m, "u32")
}

func TestOnClsactAForeignTCXProgramIsReported(t *testing.T) {
	n := newNode(t)
	testkit.Require(t, testkit.TCX)
	m := n.addMaster("eth1")
	d := n.open(AttachClsact)
	n.apply(d, state(m))
	foreign.Load(t, "early", foreign.Pass, 0).First(foreign.Place{IfName: "eth1"})
	n.apply(d, state(m))
	if issues := d.Issues(); len(issues) != 1 || !strings.Contains(issues[0].Message, "run the agent with --attach tcx") {
		t.Errorf("issues: %v", issues)
	}
	if d.places.retaken.Load() != 0 {
		t.Error("says that it went before a program that it cannot go before")
	}
}

func TestAnIngressQdiscOfOthersIsNamed(t *testing.T) {
	n := newNode(t)
	m := n.addMaster("eth1")
	must(t, netlink.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: m.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}))
	d := n.open(AttachClsact)
	err := d.Apply(t.Context(), state(m))
	if err == nil {
		t.Fatal("no error")
	}
	expectHolds(t, "error", err.Error(), "master eth1", `qdisc "ingress"`, "use clsact")
}

func TestProgramsThatSomebodyTookOffComeBack(t *testing.T) {
	each(t, func(n *node, mode AttachMode) {
		m := n.addMaster("eth1")
		d, logged := n.openLogged(mode)
		s := state(m)
		n.apply(d, s)
		want := attachedPrograms(n.t, m.Index)
		if mode == AttachTCX {
			l, err := tcxHook{pins: n.pins + "/links"}.open(m.Index, bpf.LbDirectionDIRECTION_INGRESS)
			must(n.t, err)
			must(n.t, l.Detach())
			must(n.t, l.Close())
		} else {
			qdiscs, err := netlinksafe.QdiscList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: m.Index}})
			must(n.t, err)
			for _, q := range qdiscs {
				if q.Type() == "clsact" {
					must(n.t, netlink.QdiscDel(q))
				}
			}
		}
		expectMoved(n.t, d, true)
		n.apply(d, s)
		if diff := cmp.Diff(want, attachedPrograms(n.t, m.Index)); diff != "" {
			n.t.Errorf("programs (-want +got):\n%s", diff)
		}
		expectMoved(n.t, d, false)
		expectHolds(n.t, "log", logged.String(), "somebody took our program off", "ifname=eth1")
	})
}

func TestALinkThatWasLeftHalfWayGoes(t *testing.T) {
	n := newNode(t)
	testkit.Require(t, testkit.TCX)
	m := n.addMaster("eth1")
	d := n.open(AttachTCX)
	n.apply(d, state(m))
	// As if killed between attaching the new link and giving it the old one's name.
	progs, err := d.loadPrograms(m.MAC)
	must(t, err)
	hook := tcxHook{pins: n.pins + "/links"}
	spare := tcxHook{pins: n.pins}
	must(t, spare.attach(m.Index, bpf.LbDirectionDIRECTION_INGRESS, progs.LbIngress))
	l, err := spare.open(m.Index, bpf.LbDirectionDIRECTION_INGRESS)
	must(t, err)
	must(t, l.Pin(hook.path(m.Index, bpf.LbDirectionDIRECTION_INGRESS)+nextSuffix))
	must(t, l.Close())
	must(t, progs.Close())
	must(t, d.Close())

	d = n.open(AttachTCX)
	n.apply(d, state(m))
	if got := attachedPrograms(t, m.Index); len(got) != 2 {
		t.Errorf("programs %v, want one a direction", got)
	}
	n.apply(d, lb.State{Node: "a"})
	if got := attachedPrograms(t, m.Index); len(got) != 0 {
		t.Errorf("programs %v are left", got)
	}
}

// crowded is a hook on which something happens after each attach.
type crowded struct {
	hook
	after func()
}

func (c crowded) attach(ifindex int, dir bpf.LbDirection, prog *ebpf.Program) error {
	defer c.after()
	return c.hook.attach(ifindex, dir, prog)
}

// What comes while we go to the head must not be taken for what was there all the time: nobody would look again.
func TestAProgramThatComesWhileWeGoToTheHeadIsPassedToo(t *testing.T) {
	each(t, func(n *node, mode AttachMode) {
		m := n.addMaster("eth1")
		d := n.open(mode)
		s := state(m)
		n.apply(d, s)
		late := []*foreign.Program{
			foreign.Load(n.t, "late1", foreign.Next, 0), foreign.Load(n.t, "late2", foreign.Next, 0),
		}
		use := d.hooks.use
		d.hooks.use = crowded{hook: use, after: func() {
			if len(late) > 0 {
				before(late[0], mode, foreign.Place{IfName: "eth1", Egress: len(late) == 2}, uint32(len(late)+1))
				late = late[1:]
			}
		}}
		before(foreign.Load(n.t, "early", foreign.Next, 0), mode, foreign.Place{IfName: "eth1"}, 1)
		n.apply(d, s)
		d.hooks.use = use
		if issues := d.Issues(); len(issues) != 0 || len(late) != 0 {
			n.t.Errorf("issues %v, %d more to come", issues, len(late))
		}
		expectOrder(n.t, d, m, "ours late2 early")
	})
}
