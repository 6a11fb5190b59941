// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// transcript is `go test -json` of a package with every outcome, shortened.
const transcript = `
{"Action":"run","Package":"p","Test":"TestGood"}
{"Action":"output","Package":"p","Test":"TestGood","Output":"chatter\n"}
{"Action":"attr","Package":"p","Test":"TestGood","Key":"table","Value":"verb  outcome"}
{"Action":"attr","Package":"p","Test":"TestGood","Key":"colour","Value":"blue"}
{"Action":"attr","Package":"p","Test":"TestGood","Key":"table","Value":"add   ok"}
{"Action":"pass","Package":"p","Test":"TestGood","Elapsed":0.1}
{"Action":"output","Package":"p","Test":"TestTable/bad","Output":"    a_test.go:7: want 1\n"}
{"Action":"fail","Package":"p","Test":"TestTable/bad","Elapsed":0.2}
{"Action":"pass","Package":"p","Test":"TestTable/good","Elapsed":0.2}
{"Action":"fail","Package":"p","Test":"TestTable","Elapsed":0.2}
{"Action":"output","Package":"p","Test":"TestTool","Output":"=== RUN   TestTool\n"}
{"Action":"output","Package":"p","Test":"TestTool","Output":"    b_test.go:9: this machine lacks \"tcx\": no\n"}
{"Action":"output","Package":"p","Test":"TestTool","Output":"--- SKIP: TestTool (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestTool","Elapsed":0}
{"Action":"fail","Package":"p","Elapsed":0.5}
{"Action":"skip","Package":"without-tests","Elapsed":0}
{"Action":"build-output","ImportPath":"broken","Output":"x.go:1: syntax error\n"}
{"Action":"fail","Package":"broken","Elapsed":0}
`

func TestReadTellsFailuresAndTablesAndSumTellsSkips(t *testing.T) {
	var log strings.Builder
	rs, err := read(strings.NewReader(strings.TrimSpace(transcript)), &log)
	if err != nil {
		t.Fatal(err)
	}
	wantLog := `table p TestGood
      verb  outcome
      add   ok
FAIL  p TestTable/bad (0.2s)
    a_test.go:7: want 1
FAIL  p TestTable (0.2s)
FAIL  p  (0.5s)
x.go:1: syntax error
FAIL  broken  (0.0s)
`
	if diff := cmp.Diff(wantLog, log.String()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	file := filepath.Join(t.TempDir(), "results")
	if err := rs.save(file, "unit"); err != nil {
		t.Fatal(err)
	}
	var total strings.Builder
	if err := sum(&total, file); err != nil {
		t.Fatal(err)
	}
	wantTotal := `skipped  unit: p TestTool: this machine lacks "tcx": no
FAILED   unit: p TestTable/bad
FAILED   unit: p TestTable
FAILED   unit: p
FAILED   unit: broken
2 passed, 2 failed, 1 skipped
`
	if diff := cmp.Diff(wantTotal, total.String()); diff != "" {
		t.Errorf("total (-want +got):\n%s", diff)
	}
}

// Where one test is asked for by name, most lanes have none; but it must be somewhere.
func TestNoTestAtAllIsAnError(t *testing.T) {
	const nothing = `{"Action":"pass","Package":"p","Elapsed":0}`
	file := filepath.Join(t.TempDir(), "results")
	lane := func(narrowed bool, transcript string) error {
		return runLane("unit", file, narrowed, []string{"echo", transcript})
	}
	if err := lane(false, nothing); !errors.Is(err, errNoTest) {
		t.Errorf("a lane without a test: error %v, want %v", err, errNoTest)
	}
	if err := lane(true, nothing); err != nil {
		t.Errorf("a narrowed lane without a test: error %v", err)
	}
	var total strings.Builder
	if err := sum(&total, file); !errors.Is(err, errNoTest) {
		t.Errorf("no lane with a test: error %v, want %v", err, errNoTest)
	}
	if err := lane(true, `{"Action":"pass","Package":"p","Test":"TestGood","Elapsed":0}`); err != nil {
		t.Errorf("a narrowed lane with a test: error %v", err)
	}
	if err := sum(&total, file); err != nil {
		t.Errorf("one lane with a test: error %v", err)
	}
}

// A cell that passes on one kernel is one, whatever was skipped on another; a failure is one everywhere; and a column or a
// mode that was skipped as a whole says why, once.
func TestMatrixTakesTheBestKnowledgeOfEachCell(t *testing.T) {
	skip := func(reason string) string { return "    m_test.go:9: " + reason + "\n" }
	file := filepath.Join(t.TempDir(), "results")
	for lane, all := range []results{
		{
			{Test: "TestOther/a_b/node/IPv4/TCP", Action: "fail"},
			{Test: "TestMatrix/a_b/wire_client/IPv4/TCP", Action: "pass"},
			{Test: "TestMatrix/a_b/wire_client/IPv4/UDP", Action: "fail"},
			{Test: "TestMatrix/a_b/wire_client/IPv4", Action: "fail"},
			{Test: "TestMatrix/a_b/wire_client", Action: "fail"},
			{Test: "TestMatrix/a_b/node", Action: "skip", Output: skip("nodes cannot")},
			{Test: "TestMatrix/a_b/checksums/all/x", Action: "pass"},
			{Test: "TestMatrix/a_b/checksums", Action: "pass"},
			{Test: "TestMatrix/a_b", Action: "fail"},
			{Test: "TestMatrix/c_d", Action: "skip", Output: skip("no c here")},
			{Test: "TestMatrix/e_f", Action: "skip", Output: skip("no e here")},
			{Test: "TestMatrix", Action: "fail"},
		},
		{
			{Test: "TestMatrix/c_d/wire_client/IPv4/TCP", Action: "pass"},
			{Test: "TestMatrix/c_d/wire_client/IPv4/UDP", Action: "pass"},
			{Test: "TestMatrix/c_d/wire_client", Action: "pass"},
			{Test: "TestMatrix/c_d/node", Action: "skip", Output: skip("nodes cannot")},
			{Test: "TestMatrix/c_d", Action: "pass"},
			{Test: "TestMatrix/e_f", Action: "skip", Output: skip("no e at all")},
		},
	} {
		if err := all.save(file, fmt.Sprint(lane)); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	if err := table(&out, file); err != nil {
		t.Fatal(err)
	}
	want := `mode  packets   wire client  node  checksums
a b   IPv4 TCP  ok           (1)   ok
a b   IPv4 UDP  FAIL         (1)   ok
c d   IPv4 TCP  ok           (1)   not run
c d   IPv4 UDP  ok           (1)   not run
e f   IPv4 TCP  (2)          (2)   (2)
e f   IPv4 UDP  (2)          (2)   (2)
(1) nodes cannot
(2) no e at all
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	if err := table(&out, file+"nothing"); err == nil {
		t.Error("a table without a file")
	}
}
