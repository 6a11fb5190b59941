// SPDX-License-Identifier: Apache-2.0

// Package testkit owns what a test may ask of the machine that it runs on, and how it says so when it does not get it.
// It must not be imported by anything but tests.
package testkit

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Feature is something that a test needs of the machine. Its value is the word that RequireEnv lists.
type Feature string

// The features that tests ask for.
const (
	Root    Feature = "root"    // effective UID 0, and the right to make network namespaces
	BPF     Feature = "bpf"     // maps and TC programs can be loaded
	TestRun Feature = "testrun" // a test run's packet can have arrived by an interface (kernel 5.17 or later)
	TCX     Feature = "tcx"     // programs can be attached by tcx links (kernel 6.6 or later)
	IPVlan  Feature = "ipvlan"  // interfaces of type ipvlan can be made
	VLAN    Feature = "vlan"    // VLAN sub-interfaces can be made
	Bond    Feature = "bond"    // bonds can be made
	Bars    Feature = "bars"    // times mean something: nothing else runs here; only RequireEnv can know that
)

// RequireEnv names the environment variable with the comma-separated features that this machine is known to have. A
// test that misses a listed one fails instead of skipping, so that a CI lane cannot lose its tests silently.
const RequireEnv = "SLUICE_TEST_REQUIRE"

// probes holds a real attempt per feature. Each runs at most once per test binary.
var probes = map[Feature]func() error{
	Root:    sync.OnceValue(probeRoot),
	BPF:     sync.OnceValue(probeBPF),
	TestRun: sync.OnceValue(probeTestRun),
	TCX:     sync.OnceValue(probeTCX),
	IPVlan:  sync.OnceValue(probeIPVlan),
	VLAN:    sync.OnceValue(probeVLAN),
	Bond:    sync.OnceValue(probeBond),
	Bars:    probeBars,
}

// Require skips the test when the machine lacks one of the features, and fails it when RequireEnv promised that
// feature. The message says what was tried.
func Require(t testing.TB, wanted ...Feature) {
	t.Helper()
	promised, err := parseRequired(os.Getenv(RequireEnv))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range wanted {
		probe, ok := probes[f]
		if !ok {
			t.Fatalf("feature %q is unknown to testkit: add a probe for it", f)
		}
		err := probe()
		switch {
		case err == nil:
		case slices.Contains(promised, f):
			t.Fatalf("%s lists %q, but this machine lacks it: %v", RequireEnv, f, err)
		default:
			t.Skipf("this machine lacks %q: %v", f, err)
		}
	}
}

func parseRequired(list string) ([]Feature, error) {
	var out []Feature
	for word := range strings.SplitSeq(list, ",") {
		f := Feature(strings.TrimSpace(word))
		if f == "" {
			continue
		}
		if _, ok := probes[f]; !ok {
			return nil, fmt.Errorf("%s lists %q, which no probe knows: use %v", RequireEnv, f, slices.Sorted(maps.Keys(probes)))
		}
		out = append(out, f)
	}
	return out, nil
}

func probeRoot() error {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("effective UID is %d: run the test as root", uid)
	}
	return inNewNetns(func() error { return nil })
}

func probeBPF() error {
	return errors.Join(
		explain("create an array map", features.HaveMapType(ebpf.Array)),
		explain("load a TC program", features.HaveProgramType(ebpf.SchedCLS)),
	)
}

const loopback = 1 // its ifindex in every network namespace

// passOn loads a program that leaves the decision to the next one.
func passOn() (*ebpf.Program, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "probe",
		Type:         ebpf.SchedCLS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}, // TCX_NEXT
		License:      "Dual BSD/GPL",
	})
	if err != nil {
		return nil, fmt.Errorf("load a TC program: %w", err)
	}
	return prog, nil
}

// probeTestRun gives a program a packet whose context says that it came in by the loopback interface.
func probeTestRun() error {
	prog, err := passOn()
	if err != nil {
		return err
	}
	defer prog.Close()
	context := struct { // the first part of struct __sk_buff
		_              [9]uint32
		IngressIfindex uint32
	}{IngressIfindex: loopback}
	const ethernetHeader = 14
	if _, err := prog.Run(&ebpf.RunOptions{Data: make([]byte, ethernetHeader+1), Context: context}); err != nil {
		return fmt.Errorf("give a test run an ingress_ifindex (requires kernel >= 5.17): %w", err)
	}
	return nil
}

// probeTCX attaches a program to the loopback interface of a new network namespace.
func probeTCX() error {
	return inNewNetns(func() error {
		prog, err := passOn()
		if err != nil {
			return err
		}
		defer prog.Close()
		l, err := link.AttachTCX(link.TCXOptions{Interface: loopback, Program: prog, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			return fmt.Errorf("attach a tcx link (requires kernel >= 6.6): %w", err)
		}
		return l.Close()
	})
}

func probeBars() error {
	for word := range strings.SplitSeq(os.Getenv(RequireEnv), ",") {
		if Feature(strings.TrimSpace(word)) == Bars {
			return nil
		}
	}
	return fmt.Errorf("whether it is quiet enough to measure cannot be probed: list %q in %s", Bars, RequireEnv)
}

// inNewNetns runs fn in a network namespace of its own. The thread is not given back to the scheduler, so it dies with
// the goroutine and takes the namespace along.
func inNewNetns(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("unshare the network namespace (requires CAP_SYS_ADMIN): %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

func explain(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s (requires CAP_BPF and CAP_NET_ADMIN): %w", what, err)
}
