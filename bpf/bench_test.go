// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"maps"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bpf/bpftest"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// repeats is how often a round runs the packet in the kernel: long enough to drown the system call, short enough for
// many rounds, so that a median means something on a machine that does other things too.
const repeats = 20000

// course is one path to measure.
type course struct {
	program, empty string // of bench.c
	family         family
	dir            bpftest.Direction
	in             bpftest.Packet
	reason         string
	before         []step // what the maps must have seen
}

// courses gives those of both families; IPv6's have names that end in 6.
func courses() map[string]course {
	in := func(p bpftest.Packet, reason string, before ...step) course {
		return course{"bench_ingress", "bench_empty", ipv4, bpftest.Ingress, p.Payload(longEnough), reason, before}
	}
	flow := in(fromClient(toAlice, "S"), "NEW_FLOW")
	flow.program, flow.empty = "bench_ingress_renewed", "bench_empty_renewed"
	reply := in(fromAlice("P."), "UNNAT", handshake(toAlice)...)
	reply.program, reply.dir = "bench_egress", bpftest.Egress
	all := map[string]course{
		"RemoteForward":    in(fromClient(toRemi, "P."), "REMOTE"),
		"EstablishedLocal": in(fromClient(toAlice, "P."), "LOCAL", handshake(toAlice)...),
		"UnNAT":            reply,
		"NewFlow":          flow,
		"Miss":             in(fromClient(addrPort(nobody, 80), "P."), "MISS"),
		"ForeignToPod":     in(fromClient(alice.At(5000), "P.").To(alice.MAC), "MISS"),
	}
	for name, c := range maps.Clone(all) {
		c.family = ipv6
		all[name+"6"] = c
	}
	return all
}

// longEnough makes the frame one that bench.c can save.
const longEnough = "more than the headers of IPv6 and TCP are"

func BenchmarkEmpty(b *testing.B) {
	testkit.Require(b, testkit.BPF)
	lb := loadBench(b)
	var times []float64
	for b.Loop() {
		times = append(times, mustTime(b, lb.Program("bench_empty"), courses()["Miss"].in.Bytes()))
	}
	report(b, median(times), 1)
}

func BenchmarkRemoteForward(b *testing.B)    { benchmark(b, "RemoteForward") }
func BenchmarkEstablishedLocal(b *testing.B) { benchmark(b, "EstablishedLocal") }
func BenchmarkUnNAT(b *testing.B)            { benchmark(b, "UnNAT") }
func BenchmarkNewFlow(b *testing.B)          { benchmark(b, "NewFlow") }
func BenchmarkMiss(b *testing.B)             { benchmark(b, "Miss") }

func BenchmarkRemoteForward6(b *testing.B)    { benchmark(b, "RemoteForward6") }
func BenchmarkEstablishedLocal6(b *testing.B) { benchmark(b, "EstablishedLocal6") }
func BenchmarkUnNAT6(b *testing.B)            { benchmark(b, "UnNAT6") }
func BenchmarkNewFlow6(b *testing.B)          { benchmark(b, "NewFlow6") }
func BenchmarkMiss6(b *testing.B)             { benchmark(b, "Miss6") }

// BenchmarkForeignToPod is what a pod's own traffic pays: both of its addresses are looked up, because a sibling's
// reply would look the same. No bar holds for it.
func BenchmarkForeignToPod(b *testing.B)  { benchmark(b, "ForeignToPod") }
func BenchmarkForeignToPod6(b *testing.B) { benchmark(b, "ForeignToPod6") }

func benchmark(b *testing.B, name string) {
	testkit.Require(b, testkit.BPF)
	r := newRace(b, name)
	var times, ratios []float64
	for b.Loop() {
		ns, ratio := r.mustRound()
		times, ratios = append(times, ns), append(ratios, ratio)
	}
	report(b, median(times), median(ratios))
}

// report replaces go test's ns/op, which here is the time of a round.
func report(b *testing.B, ns, ratio float64) {
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ns, "ns/pkt")
	b.ReportMetric(ratio, "x-empty")
}

func loadBench(tb testing.TB) *bpftest.LB {
	tb.Helper()
	spec, err := LoadBench()
	if err != nil {
		tb.Fatal(err)
	}
	return bpftest.Load(tb, bpftest.Config{Spec: spec, Untouched: true})
}

// race runs a course and its empty program by turns.
type race struct {
	tb testing.TB
	course
	world *world
	frame []byte
}

func newRace(tb testing.TB, name string) *race {
	tb.Helper()
	spec, err := LoadBench()
	if err != nil {
		tb.Fatal(err)
	}
	r := &race{tb: tb, course: courses()[name]}
	r.world = newWorld(tb, r.family, bpftest.Config{Spec: spec, Untouched: true})
	r.frame = r.world.bytes(r.in)
	for _, s := range r.before {
		prog := r.world.Program("bench_" + string(s.dir))
		frame := r.world.bytes(s.in.Payload(longEnough))
		r.world.Do(bpftest.Run{Dir: s.dir, Frame: frame, Program: prog})
	}
	r.mustRound() // warm
	return r
}

// mustRound gives the nanoseconds per packet, and their ratio to the empty program's in the same round.
func (r *race) mustRound() (ns, ratio float64) {
	r.tb.Helper()
	empty := mustTime(r.tb, r.world.Program(r.empty), r.frame)
	before := r.world.Count(r.dir, r.reason)
	ns = mustTime(r.tb, r.world.Program(r.program), r.frame)
	if n := r.world.Count(r.dir, r.reason) - before; n != repeats {
		r.tb.Fatalf("%s counted %d packets, want all %d: this is not the path that it claims to be", r.reason, n, repeats)
	}
	return ns, ns / empty
}

// mustTime gives the thread's CPU time of the whole call, in nanoseconds per packet. The kernel's own figure is in
// whole nanoseconds, too coarse for the empty program, and counts what preempts it.
func mustTime(tb testing.TB, prog *ebpf.Program, frame []byte) float64 {
	tb.Helper()
	defer mustKeepFromSignals(tb)()
	start := mustThreadTime(tb)
	if _, err := prog.Run(&ebpf.RunOptions{Data: frame, Repeat: repeats}); err != nil {
		tb.Fatalf("run %s: %v", prog, err)
	}
	return float64(mustThreadTime(tb)-start) / repeats
}

func mustThreadTime(tb testing.TB) int64 {
	tb.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		tb.Fatalf("read the thread's CPU time: %v", err)
	}
	return ts.Nano()
}

// mustKeepFromSignals keeps the Go scheduler's signal from this thread until the function that it returns is called. A
// signal ends a test run in the middle, and it would begin again with packets counted already.
func mustKeepFromSignals(tb testing.TB) func() {
	tb.Helper()
	runtime.LockOSThread()
	var urgent, before unix.Sigset_t
	urgent.Val[0] = 1 << (unix.SIGURG - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &urgent, &before); err != nil {
		tb.Fatalf("block SIGURG: %v", err)
	}
	return func() {
		if err := unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil); err != nil {
			tb.Fatalf("restore the signal mask: %v", err)
		}
		runtime.UnlockOSThread()
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
