// SPDX-License-Identifier: Apache-2.0

// Command bench measures what the project promises of a running cluster and compares it with the bars. It prints ratios,
// because absolute numbers say more about the machine. As root, in the tree, with iperf3 on PATH:
//
//	go run ./integration/bench
//
// It exits with 1 when a bar is missed. Bulk transfers have both ends on one CPU: the rate is then what a byte costs in all,
// end to end. On two CPUs it is also the scheduler's luck, and differs by half from run to run; -cpus "" measures that.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/sluice-lb/sluice/integration/bench/bar"
	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

// The bars.
const (
	minBulkRatio = 0.95    // bulk TCP through the VIP, to bulk TCP to the pod
	maxIdleRSS   = 40_000  // kB, of an agent that has nothing to do
	maxLatency   = 100_000 // µs, from a changed manifest to the first answer, median
	maxAddCost   = 15.0    // ms, of ADD above that of the chain without sluice, median
)

// bench is what the command line asks for.
type bench struct {
	cpus string // of iperf3's two ends, as its option -A has them; empty: any
}

func main() { os.Exit(run()) }

func run() int {
	b := bench{}
	flag.StringVar(&b.cpus, "cpus", "0,0", "CPUs of the sender and the receiver of bulk transfers; empty: any")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.measure(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (b bench) measure(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := cluster.Build(dir, "-trimpath", "-ldflags=-s -w"); err != nil {
		return err
	}
	c, err := cluster.New(ctx, cluster.Options{
		Options: lab.Options{Path: []string{dir}},
		Manifests: []string{
			filepath.Join("netconf-examples", "nad-macvlan1.yaml"), filepath.Join("netconf-examples", "node-facts.yaml"),
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	var missed []error
	for _, measure := range []func(context.Context, *cluster.Cluster) error{b.bulk, latency, rss, attach, attachAtOnce} {
		err := measure(ctx, c)
		if err != nil && !errors.Is(err, bar.ErrMissed) {
			return fmt.Errorf("%w\n%s", err, c.Logs())
		}
		missed = append(missed, err)
	}
	return errors.Join(missed...)
}
