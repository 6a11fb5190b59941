// SPDX-License-Identifier: Apache-2.0

// Package foreign owns programs that tests attach where ours are, as other agents on a node do. It must not know of
// ours.
package foreign

import (
	"fmt"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Verdict is what a program says of a frame: enum tcx_action_base in linux/bpf.h, the same numbers for filters.
type Verdict int32

// The verdicts. Next leaves the frame to the program behind; all others end the chain, and on tcx the filters as well.
const (
	Next Verdict = -1
	Pass Verdict = 0
	Drop Verdict = 2
)

// Program is a loaded program that counts the frames that it judges.
type Program struct {
	t       testing.TB
	name    string
	program *ebpf.Program
	seen    *ebpf.Map
}

// Place is a hook of an interface.
type Place struct {
	Netns  string // path of the network namespace; empty: that of the calling thread
	IfName string
	Egress bool
}

// Load gives a program that judges frames of a length in octets, Ethernet header included, or every frame if it is 0.
// It leaves all others to the next. It is unloaded when the test ends.
func Load(t testing.TB, name string, verdict Verdict, length int32) *Program {
	t.Helper()
	seen, err := ebpf.NewMap(&ebpf.MapSpec{Name: "seen", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatalf("make a foreign map: %v", err)
	}
	t.Cleanup(func() { _ = seen.Close() })
	code := asm.Instructions{
		asm.Mov.Imm(asm.R0, int32(Next)),
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // __sk_buff.len
	}
	if length != 0 {
		code = append(code, asm.JNE.Imm(asm.R2, length, "out"))
	}
	code = append(code,
		asm.LoadMapValue(asm.R1, seen.FD(), 0),
		asm.Mov.Imm(asm.R2, 1),
		asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),
		asm.Mov.Imm(asm.R0, int32(verdict)),
		asm.Return().WithSymbol("out"))
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: ebpf.SchedCLS, Instructions: code, License: "Dual BSD/GPL",
	})
	if err != nil {
		t.Fatalf("load foreign program %s: %+v", name, err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return &Program{t: t, name: name, program: program, seen: seen}
}

// ID is the program's number in the kernel.
func (p *Program) ID() int {
	p.t.Helper()
	info, err := p.program.Info()
	if err != nil {
		p.t.Fatalf("look at foreign program %s: %v", p.name, err)
	}
	id, _ := info.ID()
	return int(id)
}

// Seen counts the frames that it has judged.
func (p *Program) Seen() int {
	p.t.Helper()
	var n uint64
	if err := p.seen.Lookup(uint32(0), &n); err != nil {
		p.t.Fatalf("read the counter of foreign program %s: %v", p.name, err)
	}
	return int(n)
}

// First attaches it by a tcx link at the head of the chain until the test ends, or until detach is called.
func (p *Program) First(at Place) (detach func()) {
	p.t.Helper()
	return p.attach(at, link.Head())
}

// Last attaches it by a tcx link at the end of the chain, as First does at the head.
func (p *Program) Last(at Place) (detach func()) {
	p.t.Helper()
	return p.attach(at, link.Tail())
}

func (p *Program) attach(at Place, anchor link.Anchor) (detach func()) {
	p.t.Helper()
	hook := ebpf.AttachTCXIngress
	if at.Egress {
		hook = ebpf.AttachTCXEgress
	}
	var l link.Link
	at.do(p.t, func(ifindex int) (err error) {
		l, err = link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: p.program, Attach: hook, Anchor: anchor})
		return err
	})
	p.t.Cleanup(func() { _ = l.Close() })
	return func() {
		if err := l.Close(); err != nil {
			p.t.Errorf("detach foreign program %s: %v", p.name, err)
		}
	}
}

// Filter attaches it as a clsact filter in direct-action mode for all protocols, until the interface is gone or detach
// is called. The qdisc is made if there is none, and stays.
func (p *Program) Filter(at Place, priority uint16, handle uint32) (detach func()) {
	p.t.Helper()
	at.do(p.t, func(ifindex int) error {
		return add(&netlink.BpfFilter{
			FilterAttrs: at.filter(ifindex, priority, handle), Fd: p.program.FD(), Name: p.name, DirectAction: true,
		})
	})
	return func() {
		p.t.Helper()
		at.do(p.t, func(ifindex int) error {
			return netlink.FilterDel(&netlink.BpfFilter{FilterAttrs: at.filter(ifindex, priority, handle)})
		})
	}
}

// CatchAll attaches a u32 filter that matches every IPv4 packet and ends the chain with TC_ACT_OK.
func CatchAll(t testing.TB, at Place, priority uint16) {
	t.Helper()
	at.do(t, func(ifindex int) error {
		attrs := at.filter(ifindex, priority, 0)
		attrs.Protocol = unix.ETH_P_IP
		return add(&netlink.U32{FilterAttrs: attrs, ClassId: netlink.MakeHandle(1, 1)})
	})
}

func (at Place) filter(ifindex int, priority uint16, handle uint32) netlink.FilterAttrs {
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if at.Egress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	return netlink.FilterAttrs{
		LinkIndex: ifindex, Parent: parent, Priority: priority, Handle: handle, Protocol: unix.ETH_P_ALL,
	}
}

func add(filter netlink.Filter) error {
	err := netlink.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: filter.Attrs().LinkIndex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		},
		QdiscType: "clsact",
	})
	if err != nil && !os.IsExist(err) {
		return fmt.Errorf("add clsact: %w", err)
	}
	return netlink.FilterAdd(filter)
}

// do runs fn in the place's network namespace.
func (at Place) do(t testing.TB, fn func(ifindex int) error) {
	t.Helper()
	find := func() error {
		l, err := netlinksafe.LinkByName(at.IfName)
		if err != nil {
			return err
		}
		return fn(l.Attrs().Index)
	}
	var err error
	if at.Netns == "" {
		err = find()
	} else {
		err = ns.WithNetNSPath(at.Netns, func(ns.NetNS) error { return find() })
	}
	if err != nil {
		t.Fatalf("attach or detach a foreign program on %s: %v", at.IfName, err)
	}
}
