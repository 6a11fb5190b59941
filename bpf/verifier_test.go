// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write this kernel's counts into "+verifierTable)

const (
	verifierTable = "testdata/verifier.txt"
	// verifierSlack is by how much a count may differ from the recorded one: distributions patch their verifiers.
	verifierSlack = 1.2
	// verifierLimit is the kernel's: BPF_COMPLEXITY_LIMIT_INSNS, since 5.2.
	verifierLimit = 1_000_000
)

var processed = regexp.MustCompile(`processed (\d+) insns`)

// What the verifier must work through grows by leaps with each branch, and differs between kernels, so the counts of
// all kernels that the tests know are kept: a leap is seen where it is made.
func TestVerifierWorksAsMuchAsRecorded(t *testing.T) {
	_, coll := mustVerify(t)
	kernel := mustKernel(t)
	text, err := os.ReadFile(verifierTable)
	if err != nil {
		t.Fatal(err)
	}
	table, err := parseCounts(string(text))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for name, prog := range coll.Programs {
		found := processed.FindStringSubmatch(prog.VerifierLog)
		if found == nil {
			t.Fatalf("%s: the verifier told no count:\n%s", name, prog.VerifierLog)
		}
		if got[name], err = strconv.Atoi(found[1]); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s on %s: %d instructions processed, %.1f %% of the limit", name, kernel, got[name],
			100*float64(got[name])/verifierLimit)
	}
	if *update {
		table[kernel] = got
		if err := os.WriteFile(verifierTable, []byte(table.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, ok := table[kernel]
	if !ok {
		t.Skipf("%s has no column for kernel %s; -update adds one", verifierTable, kernel)
	}
	for name, n := range got {
		low, high := float64(want[name])/verifierSlack, float64(want[name])*verifierSlack
		if float64(n) < low || float64(n) > high {
			t.Errorf("%s: %d instructions on %s, recorded are %d: if that is meant, run this with -update, "+
				"and UPDATE=1 ./test_linux.sh vm for other kernels", name, n, kernel, want[name])
		}
	}
}

func TestVerifierTableIsReadAsItIsWritten(t *testing.T) {
	table := counts{"6.1": {"lb_ingress": 2, "lb_egress": 10}, "5.15": {"lb_ingress": 3}}
	back, err := parseCounts(table.String())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := back.String(), table.String(); got != want {
		t.Errorf("read:\n%s\nwritten:\n%s", got, want)
	}
	for _, bad := range []string{"lb_ingress 1", "program 6.1\nlb_ingress", "program 6.1\nlb_ingress many"} {
		if _, err := parseCounts(bad); err == nil {
			t.Errorf("the table %q was accepted", bad)
		}
	}
}

// counts are the instructions that a verifier processed: by kernel, then by program.
type counts map[string]map[string]int

// parseCounts reads what String writes: a line with the kernels, then one for each program; "-" where there is no
// count.
func parseCounts(text string) (counts, error) {
	out := counts{}
	var kernels []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasPrefix(line, "#"):
		case kernels == nil && words[0] == "program":
			kernels = words[1:]
			for _, k := range kernels {
				out[k] = map[string]int{}
			}
		case kernels == nil || len(words) != len(kernels)+1:
			return nil, fmt.Errorf("line %q of %s: want a program, and a count for each of %v", line, verifierTable, kernels)
		default:
			for i, word := range words[1:] {
				if word == "-" {
					continue
				}
				n, err := strconv.Atoi(word)
				if err != nil {
					return nil, fmt.Errorf("line %q of %s: %w", line, verifierTable, err)
				}
				out[kernels[i]][words[0]] = n
			}
		}
	}
	return out, nil
}

// String is the table, kernels in the order of their versions.
func (c counts) String() string {
	kernels := slices.SortedFunc(maps.Keys(c), func(a, b string) int { return version(a) - version(b) })
	programs := map[string]bool{}
	for _, column := range c {
		for name := range column {
			programs[name] = true
		}
	}
	var b strings.Builder
	b.WriteString("# Instructions that the verifier of each kernel processed. " +
		"sudo UPDATE=1 ./test_linux.sh vm rewrites this.\n")
	fmt.Fprintf(&b, "%-12s", "program")
	for _, k := range kernels {
		fmt.Fprintf(&b, " %8s", k)
	}
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		fmt.Fprintf(&b, "\n%-12s", name)
		for _, k := range kernels {
			count := "-"
			if n, ok := c[k][name]; ok {
				count = strconv.Itoa(n)
			}
			fmt.Fprintf(&b, " %8s", count)
		}
	}
	return b.String() + "\n"
}

// mustKernel gives the running kernel's version, without what a distribution adds: "6.1".
func mustKernel(t *testing.T) string {
	t.Helper()
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d.%d", major, minor)
}

// version makes versions comparable.
func version(kernel string) int {
	var major, minor int
	_, _ = fmt.Sscanf(kernel, "%d.%d", &major, &minor) // what is no version sorts first
	return major<<16 | minor
}
