// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// maxStack is the kernel's limit for a chain of calls, and stackGrain what older kernels round each frame up to: this
// machine's kernel may be more generous than the oldest that must load the programs.
const (
	maxStack   = 512
	stackGrain = 32
)

var stackDepth = regexp.MustCompile(`stack depth ([0-9+]+)`)

func TestProgramsFitTheVerifierOfOldKernels(t *testing.T) {
	spec, coll := mustVerify(t)
	for name, prog := range coll.Programs {
		info, err := prog.Info()
		if err != nil {
			t.Fatal(err)
		}
		size, err := info.TranslatedSize()
		if err != nil {
			t.Fatal(err)
		}
		found := stackDepth.FindStringSubmatch(prog.VerifierLog)
		if found == nil {
			t.Fatalf("%s: the verifier told no stack depth:\n%s", name, prog.VerifierLog)
		}
		stack, chain := deepest(t, spec.Programs[name].Instructions, found[1])
		t.Logf("%s: %d instructions, %d octets of stack in %s", name, size/asm.InstructionSize, stack, chain)
		if stack > maxStack {
			t.Errorf("%s needs %d octets of stack where frames are rounded to %d, want at most %d",
				name, stack, stackGrain, maxStack)
		}
	}
}

// mustVerify loads the programs as users do, with the verifier's account of each.
func mustVerify(t *testing.T) (*ebpf.CollectionSpec, *ebpf.Collection) {
	t.Helper()
	testkit.Require(t, testkit.BPF)
	spec, err := bpf.LoadLb()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	})
	if err != nil {
		t.Fatalf("load programs: %+v", err)
	}
	t.Cleanup(coll.Close)
	return spec, coll
}

// deepest gives the stack of the chain of calls that needs most, and that chain. depths are those of the functions, in the order
// of the code.
func deepest(t *testing.T, code asm.Instructions, depths string) (octets int, chain string) {
	t.Helper()
	frames := make(map[string]int)
	calls := make(map[string][]string)
	left := strings.Split(depths, "+")
	var in string
	for _, ins := range code {
		if name := ins.Symbol(); name != "" && len(left) > 0 {
			in = name
			n, err := strconv.Atoi(left[0])
			if err != nil {
				t.Fatal(err)
			}
			frames[in] = max((n+stackGrain-1)/stackGrain*stackGrain, stackGrain)
			left = left[1:]
		}
		if ins.IsFunctionCall() {
			calls[in] = append(calls[in], ins.Reference())
		}
	}
	if len(left) > 0 || len(calls) == 0 {
		t.Fatalf("found %d functions that call others; the verifier told %d more frames", len(calls), len(left))
	}
	var depth func(name string) (int, string)
	depth = func(name string) (int, string) {
		below, rest := 0, ""
		for _, callee := range calls[name] {
			if n, chain := depth(callee); n > below {
				below, rest = n, " > "+chain
			}
		}
		return frames[name] + below, fmt.Sprintf("%s %d%s", name, frames[name], rest)
	}
	return depth(code.Name())
}
