// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

// mustCount gives how many packets met a reason on a node, in both directions.
func mustCount(t *testing.T, n *lab.Node, reason string) int {
	t.Helper()
	out, err := n.Command(t.Context(), "curl", "-sS", "--unix-socket", "/run/sluice/agent.sock", "http://sluice/metrics").Output()
	if err != nil {
		t.Fatal(err)
	}
	total, found := 0, 0
	for line := range strings.Lines(string(out)) {
		rest, ok := strings.CutPrefix(line, "sluice_dataplane_packets_total{")
		if !ok || !strings.Contains(rest, fmt.Sprintf("reason=%q}", reason)) {
			continue
		}
		_, value, _ := strings.Cut(rest, "} ")
		count, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			t.Fatalf("metrics of %s: %q: %v", n.Name, line, err)
		}
		total += int(count)
		found++
	}
	if found != 2 {
		t.Fatalf("%s counts reason %q in %d directions, want 2", n.Name, reason, found)
	}
	return total
}

// mustCountAll gives how many packets met a reason on all nodes.
func mustCountAll(t *testing.T, c *cluster.Cluster, reason string) int {
	t.Helper()
	total := 0
	for _, n := range c.Nodes() {
		total += mustCount(t, n, reason)
	}
	return total
}
