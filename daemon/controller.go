// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-lb/sluice/daemon/internal/controller"
	"github.com/sluice-lb/sluice/daemon/internal/kube/manifest"
	"github.com/sluice-lb/sluice/daemon/internal/syncloop"
)

// runController gives out VIPs until ctx ends.
func runController(ctx context.Context, o options, log *slog.Logger) (err error) {
	single, err := lockManifests(o.manifests)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, single.Close()) }()
	registry := newRegistry()
	var control *controller.Controller
	loop := syncloop.New(measured(registry, func(ctx context.Context) error { return control.Sync(ctx) }),
		syncloop.Options{Logger: component(log, "syncloop")})
	source, err := manifest.Open(o.manifests, component(log, "manifest"), loop.Trigger)
	if err != nil {
		return err
	}
	control = controller.New(source, source.Writer(), o.kube(), component(log, "controller"))
	gaugeIssues(registry, func() int { return len(control.Issues()) })

	log.Info("controller starts", "version", version, "manifests", o.manifests)
	loop.Trigger()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return source.Run(ctx) })
	group.Go(func() error { return loop.Run(ctx) })
	group.Go(func() error { return serveHTTP(ctx, o.metricsAddress, metricsHandler(registry)) })
	return group.Wait()
}

// component gives a logger for one part of the process.
func component(log *slog.Logger, name string) *slog.Logger { return log.With("component", name) }
