// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

// wideNAD has a pool for many Services.
var wideNAD = lab.NAD{
	Name:   "macvlan1",
	Ranges: []lab.Range{{Subnet: "192.168.20.0/24", Start: "192.168.20.20", End: "192.168.20.50", Gateway: "192.168.20.1"}},
	VIPs:   []string{"192.168.20.100-192.168.20.250"},
}.YAML()

// handOver is the longest time from the death of a controller to the work of the next.
const handOver = 5 * time.Second

// leader waits until one controller holds the Lease that is not the one named, and gives the name of its pod.
func (w *world) mustLeader(t *testing.T, not string) string {
	t.Helper()
	var leader string
	mustUntil(t, "a controller leads that is not "+not, func(ctx context.Context) error {
		lease, err := w.api.Client().CoordinationV1().Leases("sluice-system").Get(ctx, "sluice-controller", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if lease.Spec.HolderIdentity != nil {
			leader, _, _ = strings.Cut(*lease.Spec.HolderIdentity, "_")
		}
		if leader == "" || leader == not {
			return fmt.Errorf("%q leads", leader)
		}
		return nil
	})
	return leader
}

func (w *world) mustController(t *testing.T, pod string) *lab.Process {
	t.Helper()
	p, err := w.StartController(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) mustCreate(t *testing.T, name string) {
	t.Helper()
	if _, err := w.Apply(name+".yaml", []byte(serviceNamed(name))); err != nil {
		t.Fatal(err)
	}
}

// TestAControllerThatDiesIsSucceeded kills the leader, and has the next one give a VIP; that one ends as it is told, and the
// one after it follows at once.
func TestAControllerThatDiesIsSucceeded(t *testing.T) {
	w := mustWorld(t, 1, cluster.Options{})
	w.mustApply(t, "nad.yaml", wideNAD)
	if got := w.mustLeader(t, ""); got != "controller" {
		t.Fatalf("%s leads", got)
	}
	second := w.mustController(t, "second")
	mustUntil(t, "the second waits", func(context.Context) error {
		if !strings.Contains(second.Output(), "another leads") {
			return fmt.Errorf("it has not seen the leader:\n%s", second.Output())
		}
		return nil
	})
	w.Controller().Kill()
	dead := time.Now()
	w.mustCreate(t, "one")
	w.mustVIPs(t, "one", 1)
	if took := time.Since(dead); took > handOver {
		t.Errorf("the second worked %v after the first had died, want %v at most", took, handOver)
	}

	w.mustController(t, "third")
	stopping, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := second.Stop(stopping); err != nil {
		t.Fatal(err)
	}
	told := time.Now()
	w.mustCreate(t, "two")
	w.mustVIPs(t, "two", 1)
	if took := time.Since(told); took > handOver {
		t.Errorf("the third worked %v after the second had ended, want %v at most", took, handOver)
	}
	if got := w.mustLeader(t, "second"); got != "third" {
		t.Errorf("%s leads", got)
	}
}

// TestALeaderThatWakesUpLateDoesNoHarm stops the leader at some moment of its work, lets another do it, and wakes it up.
func TestALeaderThatWakesUpLateDoesNoHarm(t *testing.T) {
	w := mustWorld(t, 1, cluster.Options{})
	w.mustApply(t, "nad.yaml", wideNAD)
	w.mustLeader(t, "")
	processes := map[string]*lab.Process{"controller": w.Controller(), "second": w.mustController(t, "second")}
	const rounds, perRound = 4, 12
	for round := range rounds {
		leader := w.mustLeader(t, "")
		for i := range perRound {
			w.mustCreate(t, fmt.Sprintf("s%d-%d", round, i))
			if i == perRound/2 {
				stopAfter(t, processes[leader], time.Duration(rand.IntN(30))*time.Millisecond)
			}
		}
		w.mustLeader(t, leader)
		for i := range perRound {
			w.mustVIPs(t, fmt.Sprintf("s%d-%d", round, i), 1)
		}
		if round > 0 { // what it had given is given to others meanwhile
			for i := range perRound {
				if _, err := w.api.Kubectl(t.Context(), "delete", "service", fmt.Sprintf("s%d-%d", round-1, i), "--wait=false"); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := syscall.Kill(processes[leader].PID(), syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		w.mustBeConsistent(t, perRound)
	}
}

// stopAfter stops a process after some time, as a machine does that is paused.
func stopAfter(t *testing.T, p *lab.Process, delay time.Duration) {
	t.Helper()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
	if err := syscall.Kill(p.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// mustBeConsistent waits until w is consistent.
func (w *world) mustBeConsistent(t *testing.T, services int) {
	t.Helper()
	mustUntil(t, "every Service has a VIP and a claim of its own", func(ctx context.Context) error {
		again, err := w.consistent(ctx, services)
		if !again && err != nil {
			t.Fatal(err)
		}
		return err
	})
}

// consistent tells what is not so: so many Services have a VIP, each another one, and each by its own claim; no claim is there
// besides. It may become so, if again is true; at no moment may two Services show one VIP.
func (w *world) consistent(ctx context.Context, services int) (again bool, err error) {
	list, err := w.api.Client().CoreV1().Services("default").List(ctx, metav1.ListOptions{FieldSelector: "spec.type=LoadBalancer"})
	if err != nil {
		return true, err
	}
	shown := map[string]corev1.Service{}
	for _, svc := range list.Items {
		for _, entry := range svc.Status.LoadBalancer.Ingress {
			if other, taken := shown[entry.IP]; taken {
				return false, fmt.Errorf("%s is shown by %s and %s", entry.IP, other.Name, svc.Name)
			}
			shown[entry.IP] = svc
		}
	}
	if len(shown) != services {
		return true, fmt.Errorf("%d VIPs are shown, want %d", len(shown), services)
	}
	claims, err := w.api.Client().CoordinationV1().Leases("sluice-system").List(ctx, metav1.ListOptions{
		LabelSelector: "sluice-lb.io/claim=true",
	})
	if err != nil {
		return true, err
	}
	for _, claim := range claims.Items {
		svc, ok := shown[claim.Annotations["sluice-lb.io/address"]]
		if !ok || claim.Spec.HolderIdentity == nil || *claim.Spec.HolderIdentity != string(svc.UID) {
			return true, fmt.Errorf("claim %s of %s is not that of the Service that shows it (%s)", claim.Name,
				claim.Annotations["sluice-lb.io/service"], svc.Name)
		}
	}
	if len(claims.Items) != services {
		return true, fmt.Errorf("%d claims, want %d", len(claims.Items), services)
	}
	return true, nil
}

// TestControllersMakeTheKeyOfPeersOnce: a key that changed with each leader would part the nodes.
func TestControllersMakeTheKeyOfPeersOnce(t *testing.T) {
	w := mustWorld(t, 1, cluster.Options{})
	read := func() (data map[string][]byte) {
		mustUntil(t, "there is a key", func(ctx context.Context) error {
			secret, err := w.api.Client().CoreV1().Secrets("sluice-system").Get(ctx, "sluice-peer-keys", metav1.GetOptions{})
			if err == nil {
				data = secret.Data
			}
			return err
		})
		return data
	}
	first := read()
	if id := string(first["send"]); len(first) != 2 || len(first[id]) != 32 {
		t.Errorf("key %q of %d octets is sent, of %d entries; want one of 32", id, len(first[id]), len(first))
	}
	w.mustController(t, "second")
	w.Controller().Kill()
	w.mustLeader(t, "controller")
	w.mustCreate(t, "web") // by a leader that has done what leaders do first
	w.mustApply(t, "nad.yaml", wideNAD)
	w.mustVIPs(t, "web", 1)
	if diff := cmp.Diff(first, read()); diff != "" {
		t.Errorf("the key changed with the leader (-first +second):\n%s", diff)
	}
}
