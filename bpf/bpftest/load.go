// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/internal/ether"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// Loopback is the ifindex of lo in every network namespace: the master of all tests that need no real one.
const Loopback = 1

// Master is the MAC that the programs take for their own interface's.
var Master = ether.MAC{0x02, 0, 0, 0, 0, 0x01}

// Config tells how the programs are loaded. The zero value serves most tests.
type Config struct {
	Ifindex    uint32               // of the master; Loopback if 0
	MaxEntries map[string]uint32    // by map; the rest get enough for a test
	FailHelper asm.BuiltinFunc      // this helper does nothing and returns an error
	Untouched  bool                 // the object's own bytes and map sizes: redirects are real, and so not visible
	Silent     bool                 // Services without backends drop packets
	Coverage   *Coverage            // gets what the programs answered
	Spec       *ebpf.CollectionSpec // instead of the load balancer's own; it must have the same maps
}

// LB is one copy of the programs with maps of its own.
type LB struct {
	bpf.LbMaps
	t         testing.TB
	cfg       Config
	coll      *ebpf.Collection
	maps      map[string]*ebpf.Map // by name; LbMaps owns them
	reasons   []string             // by value
	services  uint32               // last id given
	backends  uint32               // last id given
	newTables map[uint32]uint32    // id to file descriptor, not yet in the map
	pods      map[netip.Addr]Pod
	addresses map[bpf.LbAddressKey]bpf.LbAddressInfo
	flags     uint8 // of every address: see setFlags
}

// Load gives a copy of the programs, unpinned, with empty maps, until the test ends.
func Load(t testing.TB, cfg Config) *LB {
	t.Helper()
	testkit.Require(t, testkit.BPF, testkit.TestRun)
	if cfg.Ifindex == 0 {
		cfg.Ifindex = Loopback
	}
	if lb := reuse(t, cfg); lb != nil {
		return lb
	}
	spec := cfg.Spec
	if spec == nil {
		var err error
		if spec, err = bpf.LoadLb(); err != nil {
			t.Fatal(err)
		}
	}
	if err := prepare(spec, cfg); err != nil {
		t.Fatal(err)
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatalf("load programs: %+v", err)
	}
	lb := &LB{
		t: t, cfg: cfg, coll: coll, maps: maps.Clone(coll.Maps), newTables: make(map[uint32]uint32),
		pods: make(map[netip.Addr]Pod), addresses: make(map[bpf.LbAddressKey]bpf.LbAddressInfo),
	}
	t.Cleanup(lb.release)
	if lb.reasons, err = reasonNames(spec); err != nil {
		t.Fatal(err)
	}
	if err := coll.Assign(&lb.LbMaps); err != nil {
		t.Fatalf("find maps: %v", err)
	}
	return lb
}

// For makes the harness report to another test from now on: each run of a fuzz target is one.
func (lb *LB) For(t testing.TB) { lb.t = t }

// Program gives a loaded program by its name, ready to run.
func (lb *LB) Program(name string) *ebpf.Program {
	lb.t.Helper()
	if err := lb.flushTables(); err != nil {
		lb.t.Fatal(err)
	}
	p, ok := lb.coll.Programs[name]
	if !ok {
		lb.t.Fatalf("program %q is not in the object", name)
	}
	return p
}

func prepare(spec *ebpf.CollectionSpec, cfg Config) error {
	const enough = 1024
	for name, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
		if n, ok := cfg.MaxEntries[name]; ok {
			m.MaxEntries = n
		} else if m.MaxEntries > enough && !cfg.Untouched {
			m.MaxEntries = enough
		}
	}
	if err := spec.Variables["master_mac"].Set([6]byte(Master)); err != nil {
		return fmt.Errorf("set master_mac: %w", err)
	}
	if cfg.Silent {
		if err := spec.Variables[bpf.LbVarNoBackendDrop].Set(uint8(1)); err != nil {
			return fmt.Errorf("set %s: %w", bpf.LbVarNoBackendDrop, err)
		}
	}
	if cfg.Untouched {
		return nil
	}
	for _, prog := range spec.Programs {
		replaceCalls(prog, asm.FnRedirect, "observe_redirect", observeRedirect)
		if cfg.FailHelper != 0 {
			replaceCalls(prog, cfg.FailHelper, "fail_helper", asm.Instructions{
				asm.Mov.Imm(asm.R0, -22),
				asm.Return(),
			})
		}
	}
	return nil
}

// observeRedirect stands in for bpf_redirect, whose arguments a test run throws away: it returns the flags and the ifindex
// in the upper bits of TC_ACT_REDIRECT. See decodeAction.
var observeRedirect = asm.Instructions{
	asm.LSh.Imm(asm.R2, 8),
	asm.LSh.Imm(asm.R1, 16),
	asm.Mov.Reg(asm.R0, asm.R2),
	asm.Or.Reg(asm.R0, asm.R1),
	asm.Or.Imm(asm.R0, actRedirect),
	asm.Return(),
}

// replaceCalls makes a program call body, a function of up to five scalars, instead of a helper.
func replaceCalls(prog *ebpf.ProgramSpec, helper asm.BuiltinFunc, name string, body asm.Instructions) {
	replaced := false
	for i, ins := range prog.Instructions {
		if ins.IsBuiltinCall() && ins.Constant == int64(helper) {
			call := asm.Call.Label(name)
			call.Metadata = ins.Metadata
			prog.Instructions[i] = call.WithReference(name)
			replaced = true
		}
	}
	if !replaced {
		return
	}
	number := &btf.Int{Name: "unsigned int", Size: 4}
	fn := &btf.Func{Name: name, Linkage: btf.StaticFunc, Type: &btf.FuncProto{Return: number, Params: []btf.FuncParam{
		{Name: "a", Type: number}, {Name: "b", Type: number},
	}}}
	body = append(asm.Instructions(nil), body...)
	// The kernel wants a source line for each function; any will do.
	body[0] = btf.WithFuncMetadata(body[0].WithSymbol(name), fn).WithSource(prog.Instructions[0].Source())
	prog.Instructions = append(prog.Instructions, body...)
}

// reasonNames reads enum reason from the object itself, so that no test can know another order than the programs.
func reasonNames(spec *ebpf.CollectionSpec) ([]string, error) {
	var enum *btf.Enum
	if err := spec.Types.TypeByName("reason", &enum); err != nil {
		return nil, fmt.Errorf("find enum reason: %w", err)
	}
	names := make([]string, bpf.LbReasonREASON_MAX)
	for _, v := range enum.Values {
		if v.Value < uint64(len(names)) {
			names[v.Value] = v.Name[len("REASON_"):]
		}
	}
	for i, name := range names {
		if name == "" {
			return nil, errors.New("enum reason has no name for value " + fmt.Sprint(i))
		}
	}
	return names, nil
}
