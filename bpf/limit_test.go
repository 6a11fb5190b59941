// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

// mustStayOnThisCPU keeps the test on one CPU until it ends: each has buckets of its own.
func mustStayOnThisCPU(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never back: the thread ends with the test
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	for cpu := range 1024 {
		if before.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
}

// A CPU answers a thousand times at once, and then as often as milliseconds have passed, each kind for itself.
func TestAnswersAreLimited(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		mustStayOnThisCPU(t)
		const burst, extra = 1000, 500
		w := newWorld(t, f, bpftest.Config{})
		tests := map[string]step{
			"echo":        ingress(echo(client.Addr(), vip).From(router).To(bpftest.Master), bpftest.ToWire, "ECHO_REPLY"),
			"reset":       ingress(toNobody("S"), bpftest.ToWire, "REFUSED"),
			"unreachable": ingress(askingNobody("query"), bpftest.ToWire, "REFUSED"),
		}
		for name, s := range tests {
			run := bpftest.Run{Dir: s.dir, Frame: w.bytes(s.in)}
			count := map[string]int{}
			start := time.Now()
			for range burst + extra {
				count[w.Do(run).Reason]++
			}
			// The programs' clock stands still between two ticks, of 10 ms at most.
			refilled := int(time.Since(start).Milliseconds()) + 10
			if count[s.reason] < burst || count[s.reason] > burst+refilled {
				t.Errorf("%s: %d answers and %d refusals, want 1,000 answers and at most %d more: one a millisecond",
					name, count[s.reason], count["ANSWER_LIMIT"], refilled)
			}
			if count[s.reason]+count["ANSWER_LIMIT"] != burst+extra {
				t.Errorf("%s: %v, want nothing else", name, count)
			}
		}
	})
}
