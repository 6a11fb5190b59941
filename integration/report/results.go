// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// event is a line of `go test -json` (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
	Key     string // of the action "attr": t.Attr
	Value   string
}

// tableKey is the key of the attributes that hold a table, line by line. It is shown, because it is what the test is for.
const tableKey = "table"

// result is how one test ended. A result without a test is a package's.
type result struct {
	Lane    string
	Package string
	Test    string
	Action  string // "pass", "fail" or "skip"
	Output  string // of tests that did not pass
}

type results []result

type counts struct{ passed, failed, skipped int }

// String is the closing line that CI reads.
func (c counts) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", c.passed, c.failed, c.skipped)
}

// read follows a run: it prints each package as it ends, the output of each failed test, and tables. It gives all results.
func read(in io.Reader, out io.Writer) (results, error) {
	var all results
	output := map[[2]string]*strings.Builder{}
	tables := map[[2]string][]string{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(out, lines.Text()) // go itself: a build's error
			continue
		}
		key := [2]string{e.Package, e.Test}
		switch e.Action {
		case "output", "build-output":
			if output[key] == nil {
				output[key] = &strings.Builder{}
			}
			output[key].WriteString(e.Output)
		case "attr":
			if e.Key == tableKey {
				tables[key] = append(tables[key], e.Value)
			}
		case "pass", "fail", "skip":
			if table := tables[key]; table != nil {
				fmt.Fprintf(out, "table %s %s\n      %s\n", e.Package, e.Test, strings.Join(table, "\n      "))
			}
			r := result{Package: e.Package, Test: e.Test, Action: e.Action}
			if b := output[key]; b != nil && e.Action != "pass" {
				r.Output = b.String()
			}
			all = append(all, r)
			delete(output, key)
			delete(tables, key)
			tell(out, r, e.Elapsed)
		}
		if e.Action == "build-output" {
			fmt.Fprint(out, e.Output)
		}
	}
	return all, lines.Err()
}

func tell(out io.Writer, r result, seconds float64) {
	switch {
	case r.Action == "fail":
		fmt.Fprintf(out, "FAIL  %s %s (%.1fs)\n%s", r.Package, r.Test, seconds, r.Output)
	case r.Test == "" && r.Action == "pass":
		fmt.Fprintf(out, "ok    %s (%.1fs)\n", r.Package, seconds)
	}
}

// counts leaves out tests that only hold subtests, and counts a package that failed as a whole as one test.
func (rs results) counts() counts {
	var c counts
	failed := map[string]bool{}
	parents := map[string]bool{}
	for _, r := range rs {
		if i := strings.LastIndex(r.Test, "/"); i >= 0 {
			parents[r.Package+" "+r.Test[:i]] = true
		}
		if r.Test != "" && r.Action == "fail" {
			failed[r.Package] = true
		}
	}
	for _, r := range rs {
		switch {
		case r.Test == "" && (r.Action != "fail" || failed[r.Package]), parents[r.Package+" "+r.Test]:
		case r.Action == "pass":
			c.passed++
		case r.Action == "fail":
			c.failed++
		case r.Action == "skip":
			c.skipped++
		}
	}
	return c
}

func (rs results) save(file, lane string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	enc := json.NewEncoder(f)
	for _, r := range rs {
		r.Lane = lane
		if r.Test == "" && r.Action != "fail" {
			continue
		}
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return f.Close()
}

// load gives what save has saved for all lanes.
func load(file string) (results, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all results
	for dec := json.NewDecoder(f); dec.More(); {
		var r result
		if err := dec.Decode(&r); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// sum prints what was skipped or failed in all lanes, and the closing line. Lanes without any test are an error.
func sum(out io.Writer, file string) error {
	all, err := load(file)
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.Action == "skip" && r.Test != "" {
			fmt.Fprintf(out, "skipped  %s: %s %s: %s\n", r.Lane, r.Package, r.Test, reason(r.Output))
		}
	}
	for _, r := range all {
		if r.Action == "fail" {
			fmt.Fprintf(out, "FAILED   %s: %s\n", r.Lane, strings.TrimSpace(r.Package+" "+r.Test))
		}
	}
	total := all.counts()
	fmt.Fprintln(out, total)
	if total == (counts{}) {
		return errNoTest
	}
	return nil
}

// reason is what t.Skip was called with, without the file and line before it.
func reason(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	lines = slices.DeleteFunc(lines, func(l string) bool {
		l = strings.TrimSpace(l)
		return strings.HasPrefix(l, "===") || strings.HasPrefix(l, "---")
	})
	text := strings.TrimSpace(strings.Join(lines, " "))
	if _, after, ok := strings.Cut(text, ".go:"); ok {
		if _, msg, ok := strings.Cut(after, ": "); ok {
			return msg
		}
	}
	return text
}
