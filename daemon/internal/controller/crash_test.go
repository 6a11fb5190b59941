// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"errors"
	"fmt"
	"maps"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// lives are what Services and networks go through, one step after the other.
var lives = []struct {
	name  string
	steps []func(m *memory)
}{
	{"of a VIP of one Service", []func(m *memory){
		func(m *memory) { m.putService("a", "1", kube.Class, "one, two", "") },
		func(m *memory) { m.putService("a", "1", kube.Class, "one", "10.0.0.3") },
		func(m *memory) { m.putService("b", "2", kube.Class, "one", "10.0.0.1") },
		func(m *memory) { // the address goes from one to the other
			m.putService("a", "1", kube.Class, "one", "10.0.0.4")
			m.putService("b", "2", kube.Class, "one", "10.0.0.3")
		},
		func(m *memory) { m.services["default/b"].UID = "3" }, // deleted, and another made of its name
		func(m *memory) { m.putNetwork("one", "eth9", "10.0.0.1-10.0.0.4") },
		func(m *memory) { delete(m.networks, "default/one") },
		func(m *memory) { m.putNetwork("one", "eth9", "10.0.0.1-10.0.0.4") },
		func(m *memory) { delete(m.services, "default/a") },
	}},
	{"of a VIP that is shared", []func(m *memory){
		func(m *memory) { m.putService("a", "1", kube.Class, "one", "") },
		func(m *memory) { m.share("a", "k", 80) },
		func(m *memory) {
			m.putService("b", "2", kube.Class, "one", "10.0.0.1")
			m.share("b", "k", 81)
			m.putService("c", "3", kube.Class, "one", "")
			m.share("c", "k", 82)
		},
		func(m *memory) { // the port goes from one to another, which waits for the VIP
			m.putService("d", "4", kube.Class, "one", "10.0.0.1")
			m.share("d", "k", 82)
			m.share("c", "other", 82)
		},
		func(m *memory) { m.share("a", "", 80) },
		func(m *memory) { m.putNetwork("one", "eth9", "10.0.0.1-10.0.0.4") },
		func(m *memory) { delete(m.services, "default/b") },
		func(m *memory) { m.putService("d", "4", "other", "one", "") }, // not ours any more
		func(m *memory) { m.share("c", "", 80) },
	}},
}

// TestControllerStoppedAtAnyWrite stops the controller before each write of each step, and lets another finish the work.
// No status ever shows an address that is not claimed for its Service, which memory checks, and the end is the same.
func TestControllerStoppedAtAnyWrite(t *testing.T) {
	for _, life := range lives {
		t.Run(life.name, func(t *testing.T) {
			for i := range life.steps {
				want, writes := mustLive(t, life.steps[:i+1], -1)
				for stop := range writes {
					got, _ := mustLive(t, life.steps[:i+1], stop)
					if diff := gocmp.Diff(want, got); diff != "" {
						t.Errorf("step %d, stopped before write %d of %d (-want +got):\n%s", i+1, stop+1, writes, diff)
					}
				}
			}
		})
	}
}

// mustLive takes the steps, and stops the controller once in the last of them, unless stop is negative. It gives the VIPs
// and who has claimed them, and the number of writes that the last step took.
func mustLive(t *testing.T, steps []func(m *memory), stop int) (map[string]string, int) {
	t.Helper()
	m := newMemory(t)
	m.putNetwork("one", "eth1", "10.0.0.1-10.0.0.4")
	m.putNetwork("two", "eth2", "10.0.0.1-10.0.0.4")
	for i, step := range steps {
		step(m)
		m.writes = 0
		if i == len(steps)-1 && stop >= 0 {
			m.failures = func() bool { return m.writes >= stop }
			if err := m.sync(); !errors.Is(err, errInjected) {
				t.Fatalf("stopped before write %d: got %v", stop+1, err)
			}
			m.failures = func() bool { return false }
		}
		if err := m.sync(); err != nil {
			t.Fatal(err)
		}
	}
	writes := m.writes
	if err := m.sync(); err != nil || m.writes != writes {
		t.Fatalf("a second sync writes %d times, err %v", m.writes-writes, err)
	}
	m.checkServed()
	state := map[string]string{}
	for name, svc := range m.services {
		state["Service "+name] = svc.Annotations[kube.AnnotationVIPs]
	}
	for name, lease := range m.leases {
		state["Lease "+name] = fmt.Sprint(holdersOf(t, lease))
	}
	maps.DeleteFunc(state, func(_, text string) bool { return text == "" })
	return state, writes
}
