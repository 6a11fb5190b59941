// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	"github.com/sluice-lb/sluice/integration/lab"
	"github.com/sluice-lb/sluice/internal/testkit/foreign"
)

// shippedCapabilities are what deploy/ gives the agent.
func shippedCapabilities(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../deploy/base/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var set appsv1.DaemonSet
	if err := yaml.UnmarshalStrict(text, &set); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, c := range set.Spec.Template.Spec.Containers[0].SecurityContext.Capabilities.Add {
		out = append(out, strings.ToLower(string(c)))
	}
	return out
}

// mustLimit gives a directory with a sluiced whose agent has only these capabilities, as in a container that drops all others.
func mustLimit(t *testing.T, capabilities []string) string {
	t.Helper()
	mustTool(t, "setpriv")
	dir := t.TempDir()
	script := fmt.Sprintf(`#!/bin/sh
[ "$1" != agent ] || exec setpriv --no-new-privs --bounding-set=-all,+%s %[2]s "$@"
exec %[2]s "$@"
`, strings.Join(capabilities, ",+"), filepath.Join(programs, "sluiced"))
	if err := os.WriteFile(filepath.Join(dir, "sluiced"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTheAgentNeedsNoMoreThanItIsGivenInACluster(t *testing.T) {
	capabilities := shippedCapabilities(t)
	eachAttachment(t, func(t *testing.T, attach string) {
		c := mustCluster(t, attach, lab.Options{Nodes: 2, Path: []string{mustLimit(t, capabilities)}})
		pods, vips := mustWeb(t, c)
		mustAnswer(t, c, vips)
		n := mustOwner(t, c)
		t.Cleanup(before(foreign.Load(t, "other", foreign.Pass, 0), attach, ingress(n), 1))
		for _, n := range c.Nodes() {
			if err := c.Agent(n).Stop(t.Context()); err != nil {
				t.Error(err)
			}
			mustStartAgent(t, c, n)
		}
		if err := pods[0].Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustServed(t, c, "default/web", pods[1:]...)
		mustAnswer(t, c, vips)
		for _, n := range c.Nodes() {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Agent(n).PID()))
			if err != nil || !strings.Contains(string(status), fmt.Sprintf("CapBnd:\t%016x\n", mask(t, capabilities))) {
				t.Errorf("the agent of %s is not limited to %v: %v\n%s", n.Name, capabilities, err, status)
			}
			for _, denied := range []string{"operation not permitted", "permission denied"} {
				if strings.Contains(c.Agent(n).Output(), denied) {
					t.Errorf("the agent of %s was denied something: see its log", n.Name)
				}
			}
		}
	})
}

// mask gives the bits of capabilities (linux/capability.h).
func mask(t *testing.T, capabilities []string) uint64 {
	t.Helper()
	bits := map[string]uint{"net_admin": 12, "net_raw": 13, "sys_admin": 21, "perfmon": 38, "bpf": 39}
	out := uint64(0)
	for _, c := range capabilities {
		bit, known := bits[c]
		if !known {
			t.Fatalf("capability %s: add its number to this test", c)
		}
		out |= 1 << bit
	}
	return out
}
