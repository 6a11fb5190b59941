// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

// A kernel that refuses a checksum helper leaves a packet half written: it must not go anywhere.
func testRefusedHelper(t *testing.T, f family, coverage *bpftest.Coverage) {
	for _, helper := range []asm.BuiltinFunc{asm.FnL4CsumReplace, asm.FnCsumDiff} {
		w := newWorld(t, f, bpftest.Config{FailHelper: helper, Coverage: coverage})
		for _, dir := range []bpftest.Direction{bpftest.Ingress, bpftest.Egress} {
			got := w.Do(bpftest.Run{Dir: dir, Frame: w.bytes(fromClient(toAlice, "S"))})
			if got.Action != bpftest.Drop || got.Reason != "REWRITE" {
				t.Errorf("%s fails at %s: verdict = %s (%s), want drop (REWRITE)", helper, dir, got.Action, got.Reason)
			}
		}
	}
}

// mustCallFirst loads a program that calls a helper with the packet and two more arguments, and goes on as next.
func mustCallFirst(t *testing.T, helper asm.BuiltinFunc, second, third int32, next *ebpf.Program) *ebpf.Program {
	t.Helper()
	calls, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1,
		Contents: []ebpf.MapKV{{Key: uint32(0), Value: next}},
	})
	if err != nil {
		t.Fatalf("make program array: %v", err)
	}
	t.Cleanup(func() { calls.Close() })
	front, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "call_first", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.Mov.Imm(asm.R2, second),
			asm.Mov.Imm(asm.R3, third),
			helper.Call(),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.LoadMapPtr(asm.R2, calls.FD()),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnTailCall.Call(),
			asm.Mov.Imm(asm.R0, 1), // reached only if the call failed: no verdict of ours
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatalf("load program: %+v", err)
	}
	t.Cleanup(func() { front.Close() })
	return front
}

// A pod that has talked to itself from every port is refused one more connection.
func testNoPort(t *testing.T, f family, coverage *bpftest.Coverage) {
	const first, count = 49152, 16384 // IANA's dynamic ports
	w := newWorld(t, f, bpftest.Config{Coverage: coverage, MaxEntries: map[string]uint32{"flows": count}})
	for p := uint32(first); p < first+count; p++ {
		w.AddFlow(bpftest.ProtoTCP, f.at(alice.At(target)), f.at(addrPort(vip, uint16(p))))
	}
	in := bpftest.TCP(alice.At(40000), toAlice, "S").From(alice.MAC).To(bpftest.Master)
	w.mustSteps(t,
		egress(in, bpftest.Drop, "NO_PORT"),
		ingress(in, bpftest.Drop, "NO_PORT"))
}
