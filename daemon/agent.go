// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/daemon/internal/announce"
	"github.com/sluice-lb/sluice/daemon/internal/attach"
	"github.com/sluice-lb/sluice/daemon/internal/dataplane"
	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/daemon/internal/links"
	"github.com/sluice-lb/sluice/daemon/internal/server"
	"github.com/sluice-lb/sluice/daemon/internal/syncloop"
)

// agentGCPercent is GOGC's: it keeps an agent with 5,000 Services of 10 endpoints at three quarters of the memory that it has
// with Go's 100, and a sync allocates little.
const agentGCPercent = 50

// runAgent makes this node balance until ctx ends. What it programmed stays in force after that.
func runAgent(ctx context.Context, o options, log *slog.Logger) (err error) {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("the agent runs as user %d, but loads BPF programs and watches pods: run it as root "+
			"(sudo, or a privileged pod in the host's network)", uid)
	}
	if os.Getenv("GOGC") == "" { // who sets it knows better
		debug.SetGCPercent(agentGCPercent)
	}
	single, err := lockNode(agentLock, o.bpffs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, single.Close()) }()
	registry := newRegistry()
	pipe := &pipeline{log: component(log, "agent")}
	loop := syncloop.New(measured(registry, pipe.sync), syncloop.Options{Logger: component(log, "syncloop")})

	// Every source reads what there is before the first sync: it must not delete what a slow source would have wanted.
	source, facts, err := pipe.open(ctx, o, log, loop.Trigger)
	if ctx.Err() != nil {
		return nil // told to stop before the API server answered
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	interfaces, err := links.Open(loop.Trigger, component(log, "links"))
	if err != nil {
		return err
	}
	masters, err := links.OpenMasters(component(log, "links"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, masters.Close()) }()
	attachments, err := attach.Open(attach.Options{
		Dir: api.SpoolDir, Logger: component(log, "attach"), Notify: loop.Trigger,
	})
	if err != nil {
		return err
	}
	plane, err := dataplane.Open(dataplane.Options{
		PinDir: o.bpffs, Attach: dataplane.AttachMode(o.attach), NoBackends: dataplane.NoBackends(o.noBackends),
		Notify: loop.Trigger, Logger: component(log, "dataplane"),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plane.Close()) }()
	announcer, err := announce.Open(component(log, "announce"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, announcer.Close()) }()

	converter := kube.NewConverter(o.kube())
	pipe.snapshot = func() lb.Snapshot {
		in := converter.Snapshot(source.Objects())
		in.Node, in.Links = o.nodeName, interfaces.Snapshot()
		in.Attachments = masters.Resolve(in.Links, attachments.Snapshot())
		return in
	}
	pipe.apply, pipe.found = plane.Apply, plane.Issues
	pipe.announce = announcer.Set
	registry.MustRegister(plane.Collector())
	gaugeIssues(registry, func() int { return len(pipe.State().Issues) })
	gaugeVIPs(registry, pipe.State)

	socket := server.New(server.Options{
		Attachments: attachments,
		Serve: func(ctx context.Context, a api.Attachment) error {
			err := loop.SyncNow(ctx)
			if err != nil && plane.Serves(a.MasterIndex, a.MAC) {
				return nil // what failed is another object's, and the loop has logged it
			}
			return err
		},
		Services: func() ([]api.Service, error) { return pipe.services(plane.Counters) },
		Issues:   pipe.issues,
		State:    func() any { return pipe.State() },
		Ready:    pipe.Ready,
		Metrics:  promhttp.HandlerFor(registry, promhttp.HandlerOpts{}),
		Logger:   component(log, "server"),
	})

	log.Info("agent starts", "version", version, "node", o.nodeName, "objects", o.objects())
	loop.Trigger()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return source.Run(ctx) })
	group.Go(func() error { return facts(ctx) })
	group.Go(func() error { return interfaces.Run(ctx) })
	group.Go(func() error { return attachments.Run(ctx) })
	group.Go(func() error { return loop.Run(ctx) })
	group.Go(func() error { return plane.Run(ctx) })
	group.Go(func() error { return announcer.Run(ctx) })
	group.Go(func() error { return socket.Run(ctx, api.Socket) })
	group.Go(func() error { return serveHTTP(ctx, o.metricsAddress, socket.HealthHandler()) })
	return group.Wait()
}
