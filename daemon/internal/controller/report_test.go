// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/daemon/internal/controller"
	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

func TestIssuesAreLoggedOnceAndAgainWhenTheyChange(t *testing.T) {
	m := newMemory(t)
	m.putService("web", "1", kube.Class, "one", "")
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	c := controller.New(m, m, kube.Options{}, logger)
	steps := []struct {
		name     string
		do       func()
		warnings []string
	}{
		{"the network is missing", func() {}, []string{controller.ReasonNetworkNotFound}},
		{"it still is", func() {}, nil},
		{
			"the reason changes", func() { m.putNetwork("one", "eth1", "fd00::1") },
			[]string{controller.ReasonNoPool},
		},
		{"all is well", func() { m.putNetwork("one", "eth1", "10.0.0.1") }, nil},
		{"it comes again", func() { delete(m.networks, "default/one") }, []string{controller.ReasonNetworkNotFound}},
	}
	for _, step := range steps {
		step.do()
		log.Reset()
		if err := c.Sync(t.Context()); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got := strings.Count(log.String(), "\n"); got != len(step.warnings) {
			t.Errorf("%s: %d warnings, want %d:\n%s", step.name, got, len(step.warnings), &log)
		}
		for _, reason := range step.warnings {
			if !strings.Contains(log.String(), "reason="+reason) {
				t.Errorf("%s: no warning with reason %s:\n%s", step.name, reason, &log)
			}
		}
	}
}

func TestConditionKeepsItsTimeWhileItsStatusStays(t *testing.T) {
	m := newMemory(t)
	m.putService("web", "1", kube.Class, "one", "")
	start := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	times := []string{}
	for hour, vips := range []string{"fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2"} {
		m.putNetwork("one", "eth1", vips)
		plan := controller.NewPlan(m.Objects(), kube.Options{}, start.Add(time.Duration(hour)*time.Hour))
		m.services["default/web"] = plan.Statuses[0]
		condition := plan.Statuses[0].Status.Conditions[0]
		times = append(times, fmt.Sprint(condition.Status, condition.LastTransitionTime.UTC().Hour()))
	}
	if got, want := fmt.Sprint(times), "[False0 False0 True2 True2]"; got != want {
		t.Errorf("status and hour of the transition: got %s, want %s", got, want)
	}
}

// TestExamplesGiveAVIP puts the examples that belong together into one directory, as their README says.
func TestExamplesGiveAVIP(t *testing.T) {
	dir := t.TempDir()
	mustCopyExamples(t, dir, "nad-macvlan1.yaml", "pods.yaml", "service.yaml", "node-facts.yaml")
	want := `claim vip-eth1-192-168-20-240: 192.168.20.240 for default/multus-service on default/macvlan1
service default/multus-service: {"default/macvlan1":["192.168.20.240"]}
  ingress 192.168.20.240 mode Proxy 55003/TCP
  sluice-lb.io/Allocated True Allocated
    default/macvlan1 has 192.168.20.240
`
	if diff := gocmp.Diff(want, mustSync(t, dir, kube.Options{})); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestDualStackExamplesGiveTwoVIPs(t *testing.T) {
	dir := t.TempDir()
	mustCopyExamples(t, dir, "nad-macvlan1-dual-stack.yaml", "pods.yaml", "service-dual-stack.yaml", "node-facts.yaml")
	want := `claim vip-eth1-192-168-20-240: 192.168.20.240 for default/multus-service-dual-stack on default/macvlan1
claim vip-eth1-fd00-0020-0000-0000-0000-0000-0000-00f0: fd00:20::f0 for default/multus-service-dual-stack on default/macvlan1
service default/multus-service-dual-stack: {"default/macvlan1":["192.168.20.240","fd00:20::f0"]}
  ingress 192.168.20.240 mode Proxy 55003/TCP
  ingress fd00:20::f0 mode Proxy 55003/TCP
  sluice-lb.io/Allocated True Allocated
    default/macvlan1 has 192.168.20.240
    default/macvlan1 has fd00:20::f0
`
	if diff := gocmp.Diff(want, mustSync(t, dir, kube.Options{})); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestSharingExamplesGiveOneVIP(t *testing.T) {
	dir := t.TempDir()
	mustCopyExamples(t, dir, "nad-macvlan1.yaml", "pods.yaml", "service-sharing.yaml", "node-facts.yaml")
	want := `claim vip-eth1-192-168-20-240: 192.168.20.240 for sharing-key:default/multus of ` +
		`[{"service":"default/multus-http","uid":"default/multus-http","network":"default/macvlan1"},` +
		`{"service":"default/multus-operators","uid":"default/multus-operators","network":"default/macvlan1"}]
service default/multus-http: {"default/macvlan1":["192.168.20.240"]}
  ingress 192.168.20.240 mode Proxy 80/TCP
  sluice-lb.io/Allocated True Allocated
    default/macvlan1 has 192.168.20.240
service default/multus-operators: {"default/macvlan1":["192.168.20.240"]}
  ingress 192.168.20.240 mode Proxy 8080/TCP
  sluice-lb.io/Allocated True Allocated
    default/macvlan1 has 192.168.20.240
    spec.externalTrafficPolicy Local: established connections break when another node comes to own a VIP
`
	if diff := gocmp.Diff(want, mustSync(t, dir, kube.Options{})); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func mustCopyExamples(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join("../../../netconf-examples", name))
		if err != nil {
			t.Fatal(err)
		}
		mustPut(t, filepath.Join(dir, name), data)
	}
}
