// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

// packetCounters gives the lines of a node's metrics that count packets by direction and reason.
func packetCounters(ctx context.Context, n *lab.Node) ([]string, error) {
	out, err := n.Command(ctx, "curl", "-sS", "--unix-socket", "/run/sluice/agent.sock", "http://sluice/metrics").Output()
	var lines []string
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(line, "sluice_dataplane_packets_total"); ok {
			lines = append(lines, strings.TrimSpace(rest))
		}
	}
	return lines, err
}

// allCounters tells what every node's programs did with packets, for a person who looks at a failure.
func allCounters(c *cluster.Cluster) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var text strings.Builder
	for _, n := range c.Nodes() {
		lines, err := packetCounters(ctx, n)
		if err != nil {
			fmt.Fprintln(&text, n.Name, err) // its agent may be stopped
		}
		for _, line := range lines {
			if !strings.HasSuffix(line, "} 0") {
				fmt.Fprintln(&text, n.Name, line)
			}
		}
	}
	return text.String()
}

// mustCount gives how many packets met a reason on a node, in both directions.
func mustCount(t *testing.T, n *lab.Node, reason string) int {
	t.Helper()
	lines, err := packetCounters(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	total, found := 0, 0
	for _, line := range lines {
		labels, value, _ := strings.Cut(line, "} ")
		if !strings.HasSuffix(labels, fmt.Sprintf("reason=%q", reason)) {
			continue
		}
		count, err := strconv.ParseFloat(value, 64)
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
