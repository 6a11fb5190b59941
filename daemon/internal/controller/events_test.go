// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/daemon/internal/controller"
	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// told keeps events: "Normal Service default/a Allocated: default/one has 10.0.0.1".
type told []string

func (t *told) Warn(object, reason, message string) {
	*t = append(*t, fmt.Sprintf("Warning %s %s: %s", object, reason, message))
}

func (t *told) Tell(object, reason, message string) {
	*t = append(*t, fmt.Sprintf("Normal %s %s: %s", object, reason, message))
}

// take gives the events since the last time, sorted and without what issues say in detail.
func (t *told) take() []string {
	out := make([]string, 0, len(*t))
	for _, line := range *t {
		if head, _, _ := strings.Cut(line, ": "); strings.HasPrefix(line, "Warning") {
			line = head
		}
		out = append(out, line)
	}
	slices.Sort(out)
	*t = nil
	return out
}

func TestServicesAreToldOfTheirVIPs(t *testing.T) {
	m := newMemory(t)
	events := &told{}
	c := controller.New(m, m, kube.Options{}, slog.New(slog.DiscardHandler))
	c.RecordOn(events)
	m.putNetwork("one", "eth1", "10.0.0.1-10.0.0.9")
	steps := []struct {
		name string
		do   func()
		want []string
	}{
		{"a Service comes", func() { m.putService("a", "1", kube.Class, "one", "") }, []string{
			"Normal Service default/a Allocated: default/one has 10.0.0.1",
		}},
		{"nothing changes", func() {}, []string{}},
		{"it asks for another address", func() { m.putService("a", "1", kube.Class, "one", "10.0.0.5") }, []string{
			"Normal Service default/a Allocated: default/one has 10.0.0.5",
			"Normal Service default/a Released: 10.0.0.1 is no VIP of it on default/one any more",
		}},
		{"the network moves to another segment", func() { m.putNetwork("one", "eth2", "10.0.0.1-10.0.0.9") }, []string{
			"Normal Service default/a Allocated: default/one has 10.0.0.5",
		}},
		{"another one shares", func() {
			m.share("a", "k", 80)
			m.putService("b", "2", kube.Class, "one", "10.0.0.5")
			m.share("b", "k", 81)
		}, []string{"Normal Service default/b Allocated: default/one has 10.0.0.5"}},
		{"it ceases to", func() {
			m.putService("b", "2", kube.Class, "one", "10.0.0.6")
		}, []string{
			"Normal Service default/b Allocated: default/one has 10.0.0.6",
			"Normal Service default/b Released: 10.0.0.5 is no VIP of it on default/one any more",
		}},
		{"a Service of its name comes after it", func() { m.services["default/a"].UID = "3" }, []string{
			"Normal Service default/a Allocated: default/one has 10.0.0.5",
		}},
		{"it does not want to be balanced any more", func() { m.putService("a", "3", "another", "one", "") }, []string{
			"Normal Service default/a Released: 10.0.0.5 is no VIP of it on default/one any more",
		}},
		{"a Service goes", func() { delete(m.services, "default/b") }, []string{}},
	}
	for _, step := range steps {
		step.do()
		if err := c.Sync(t.Context()); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if diff := gocmp.Diff(step.want, events.take()); diff != "" {
			t.Errorf("%s: events (-want +got):\n%s", step.name, diff)
		}
	}
}

func TestIssuesAreToldOnceWhateverFails(t *testing.T) {
	m := newMemory(t)
	events := &told{}
	c := controller.New(m, m, kube.Options{}, slog.New(slog.DiscardHandler))
	c.RecordOn(events)
	broken := true
	m.failures = func() bool { return broken }
	m.putNetwork("one", "eth1", "10.0.0.1")
	m.putNetwork("odd", "eth1", "nonsense")
	m.putService("a", "1", kube.Class, "one", "")
	m.putService("b", "2", kube.Class, "one", "")
	expect := func(name string, want ...string) {
		t.Helper()
		if err := c.Sync(t.Context()); broken != errors.Is(err, errInjected) {
			t.Fatalf("%s: %v", name, err)
		}
		if got := events.take(); !slices.Equal(got, want) {
			t.Errorf("%s: events %q, want %q", name, got, want)
		}
	}
	expect("no write succeeds", "Warning NetworkAttachmentDefinition default/odd InvalidNetwork",
		"Warning Service default/b PoolExhausted")
	expect("still none does")
	broken = false
	expect("writes succeed", "Normal Service default/a Allocated: default/one has 10.0.0.1")
	m.putNetwork("one", "eth1", "10.0.0.1-10.0.0.2")
	expect("the pool grows", "Normal Service default/b Allocated: default/one has 10.0.0.2")
	m.putService("b", "2", kube.Class, "one", "10.0.0.1")
	expect("it wants what another has", "Warning Service default/b AddressInUse")
	expect("it still does")
}
