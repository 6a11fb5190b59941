// SPDX-License-Identifier: Apache-2.0

// Command demo is the tour behind run.sh: it builds a small world, shows a VIP answer in it, and checks everything that it
// says. It must not reach around the programs that it shows: pods are attached by the CNI chain, and sluicectl speaks.
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
	"time"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

func main() { os.Exit(run()) }

type options struct {
	bin, cni, tools, examples string
	keep                      bool
}

func run() int {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "directory with sluice, sluiced and sluicectl")
	flag.StringVar(&o.cni, "cni", "", "directory with the upstream plugins macvlan and host-local")
	flag.StringVar(&o.tools, "tools", "", "directory with nginx")
	flag.StringVar(&o.examples, "examples", "netconf-examples", "directory with the manifests")
	flag.BoolVar(&o.keep, "keep", false, "stay up after the tour, until Ctrl-C")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	out := newTeller(os.Stdout)
	err := show(ctx, o, out)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		out.say("")
		out.say("Interrupted; everything is cleaned up.")
		return 130
	}
	fmt.Fprintf(os.Stderr, "\nThe demo found something that is not as it should be:\n%v\n", err)
	return 1
}

// show gives the tour in a world of its own and takes the world down again.
func show(ctx context.Context, o options, out *teller) (err error) {
	out.say("%s", picture)
	out.step("Three nodes, a switch, a router and two clients; a controller, and an agent on each node")
	example := func(name string) string { return filepath.Join(o.examples, name) }
	c, err := cluster.New(ctx, cluster.Options{
		Options: lab.Options{Path: []string{o.bin, o.cni, o.tools}},
		Manifests: []string{
			example("nad-macvlan1.yaml"), example("node-facts.yaml"), example("pods.yaml"), example("service.yaml"),
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	t := &tour{Cluster: c, out: out, options: o, start: time.Now()}
	if err := t.run(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, c.Logs())
	}
	if !o.keep {
		return nil
	}
	t.invite()
	<-ctx.Done()
	out.say("")
	out.say("Taken down.")
	return nil
}
