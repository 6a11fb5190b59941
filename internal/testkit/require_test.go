// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRequired(t *testing.T) {
	got, err := parseRequired(" root,bpf, ,tcx")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Feature{Root, BPF, TCX}, got); diff != "" {
		t.Errorf("features (-want +got):\n%s", diff)
	}
	if _, err := parseRequired("rooot"); err == nil {
		t.Error("a misspelt feature was accepted; the lane that listed it would skip silently")
	}
}

// recorder is a testing.TB that remembers how a test ended instead of ending it.
type recorder struct {
	testing.TB
	outcome string
}

func (r *recorder) Helper() {}
func (r *recorder) Skipf(format string, args ...any) {
	r.end("skip: " + fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.end("fail: " + fmt.Sprintf(format, args...))
}
func (r *recorder) Fatal(args ...any) { r.end("fail: " + fmt.Sprint(args...)) }

func (r *recorder) end(outcome string) {
	r.outcome = outcome
	runtime.Goexit()
}

func TestRequireSkipsUnlessTheFeatureWasPromised(t *testing.T) {
	const lacking Feature = "lacking"
	probes[lacking] = func() error { return errors.New("tried to fly, fell") }
	t.Cleanup(func() { delete(probes, lacking) })

	tests := map[string]struct {
		promised string
		wanted   Feature
		want     string
	}{
		"not promised":   {promised: "", wanted: lacking, want: "skip: this machine lacks \"lacking\": tried to fly, fell"},
		"promised":       {promised: "lacking", wanted: lacking, want: "fail: SLUICE_TEST_REQUIRE lists \"lacking\""},
		"unknown":        {promised: "", wanted: "nonsense", want: "fail: feature \"nonsense\" is unknown"},
		"unknown in env": {promised: "nonsense", wanted: lacking, want: "fail: SLUICE_TEST_REQUIRE lists \"nonsense\""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Setenv(RequireEnv, tc.promised)
			r := &recorder{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				Require(r, tc.wanted)
			}()
			<-done
			if !strings.HasPrefix(r.outcome, tc.want) {
				t.Errorf("outcome = %q, want prefix %q", r.outcome, tc.want)
			}
		})
	}
}

func TestRequireRunsWhatTheMachineHas(t *testing.T) {
	for _, f := range []Feature{Root, BPF, TestRun, TCX, IPVlan, VLAN, Bond} {
		t.Run(string(f), func(t *testing.T) { Require(t, f) })
	}
}
