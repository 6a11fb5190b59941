// SPDX-License-Identifier: Apache-2.0

// Command latency measures how soon traffic follows what the API server is told: a Service that is created, a pod that becomes
// ready, a pod that is deleted. A real API server, the controller and the agents of two nodes run as processes, and a client on
// the segment opens a connection every other millisecond. As root, in the tree:
//
//	go run ./integration/bench/latency
//
// All times begin when the request is about to be sent to the API server, and so include its answer. They end with the first
// SYN that is answered, or the last one. It exits with 1 when a bar is missed; with -json it prints the figures, in ms, and
// judges nothing.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sluice-lb/sluice/integration/bench/bar"
	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/kubeapi"
	"github.com/sluice-lb/sluice/integration/lab"
)

// The bars, in ms, of each measure.
const (
	maxMedian = 150.0
	maxP99    = 500.0
)

// How often each thing happens before it counts, and how often pods come and go then.
const (
	warmUps = 3
	pods    = 50
)

func main() { os.Exit(run()) }

func run() int {
	services := flag.Int("services", 100, "Services to create")
	asJSON := flag.Bool("json", false, "print one JSON object instead of a line for each bar")
	flag.Parse()
	if most := maxServices - warmUps - 1; *services < 1 || *services > most {
		fmt.Fprintf(os.Stderr, "-services %d: want 1 to %d, as many as the pool has addresses for\n", *services, most)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	f, err := measure(ctx, *services)
	if err == nil && *asJSON {
		err = json.NewEncoder(os.Stdout).Encode(f.summary())
	} else if err == nil {
		err = f.judge()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// measure runs a cluster and measures it.
func measure(ctx context.Context, services int) (f figures, err error) {
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return figures{}, err
	}
	defer os.RemoveAll(dir)
	if err := cluster.Build(dir, "-trimpath", "-ldflags=-s -w"); err != nil {
		return figures{}, err
	}
	file := filepath.Join(dir, "network.yaml")
	if err := os.WriteFile(file, []byte(networkYAML), 0o644); err != nil {
		return figures{}, err
	}
	plane := &kubeapi.Plane{}
	c, err := cluster.New(ctx, cluster.Options{
		Options: lab.Options{Nodes: 2, Path: []string{dir}}, API: plane, Manifests: []string{file},
	})
	if err != nil {
		return figures{}, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	w := &world{Cluster: c, api: plane}
	if f.service, err = w.services(ctx, services); err == nil {
		f.podAdd, f.podDel, err = w.pods(ctx)
	}
	if err != nil {
		return figures{}, fmt.Errorf("%w\n%s", err, c.Logs())
	}
	return f, nil
}

// figures are what was measured.
type figures struct{ service, podAdd, podDel series }

// series is one measure, again and again, in ms.
type series struct {
	took  []float64 // from the request to the SYN
	calls []float64 // from the request to the API server's answer, which is part of that
}

func (s *series) add(one sample) {
	s.took, s.calls = append(s.took, ms(one.took)), append(s.calls, ms(one.call))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// summary is what -json prints.
func (f figures) summary() map[string]float64 {
	return map[string]float64{
		"service_ms_p50": bar.Median(f.service.took), "service_ms_p99": bar.P99(f.service.took),
		"pod_add_ms_p50": bar.Median(f.podAdd.took), "pod_add_ms_p99": bar.P99(f.podAdd.took),
		"pod_del_ms_p50": bar.Median(f.podDel.took), "pod_del_ms_p99": bar.P99(f.podDel.took),
	}
}

// judge compares with the bars.
func (f figures) judge() error {
	var missed []error
	for _, m := range []struct {
		what string
		series
	}{
		{"Service created to first answered SYN", f.service},
		{"pod ready to first answered SYN", f.podAdd},
		{"pod deleted to last answered SYN", f.podDel},
	} {
		median, p99 := bar.Median(m.took), bar.P99(m.took)
		missed = append(missed, bar.Check(median <= maxMedian && p99 <= maxP99,
			"%s: median %.1f ms (bar %.0f ms), 99th percentile %.1f ms (bar %.0f ms); the API server's answer: median %.1f ms; of %d",
			m.what, median, maxMedian, p99, maxP99, bar.Median(m.calls), len(m.took)))
	}
	return errors.Join(missed...)
}
