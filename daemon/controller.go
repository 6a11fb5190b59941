// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lb/sluice/daemon/internal/controller"
	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/kube/apiserver"
	"github.com/sluice-lb/sluice/daemon/internal/peerkeys"
	"github.com/sluice-lb/sluice/daemon/internal/syncloop"
)

// runController gives out VIPs until ctx ends.
func runController(ctx context.Context, o options, log *slog.Logger) error {
	registry := newRegistry()
	if o.manifests != "" {
		return controlManifests(ctx, o, registry, log)
	}
	return controlAPI(ctx, o, registry, log)
}

// controlManifests is the controller of a directory, of which there is one.
func controlManifests(ctx context.Context, o options, registry *prometheus.Registry, log *slog.Logger) (err error) {
	single, err := lockManifests(o.manifests)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, single.Close()) }()
	var control *controller.Controller
	loop := syncloop.New(measured(registry, func(ctx context.Context) error { return control.Sync(ctx) }),
		syncloop.Options{Logger: component(log, "syncloop")})
	source, err := openManifests(o, log, loop.Trigger)
	if err != nil {
		return err
	}
	control = controller.New(source, source.Writer(), o.kube(), component(log, "controller"))
	gaugeIssues(registry, func() int { return len(control.Issues()) })

	log.Info("controller starts", "version", version, "objects", o.objects())
	loop.Trigger()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return source.Run(ctx) })
	group.Go(func() error { return loop.Run(ctx) })
	group.Go(func() error { return serveHTTP(ctx, o.metricsAddress, controllerHandler(registry, alwaysReady)) })
	return group.Wait()
}

// controlAPI is one of the controllers of an API server. All watch, so that each can follow at once; the one that leads
// writes.
func controlAPI(ctx context.Context, o options, registry *prometheus.Registry, log *slog.Logger) (err error) {
	var knows atomic.Bool
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return serveHTTP(ctx, o.metricsAddress, controllerHandler(registry, func() error { return knowsAll(&knows) }))
	})

	var running atomic.Pointer[syncloop.Runner] // while this process leads
	var objects *apiObjects
	standby := syncloop.New(func(context.Context) error {
		objects.Objects() // one that waits for its turn remembers valid networks too
		return nil
	}, syncloop.Options{MinInterval: time.Second})
	objects, err = openAPI(ctx, o, apiserver.Controller, log, func() {
		if loop := running.Load(); loop != nil {
			loop.Trigger()
		} else {
			standby.Trigger()
		}
	})
	if ctx.Err() != nil {
		return group.Wait() // told to stop before the API server answered
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, objects.Close()) }()
	knows.Store(true)
	name, err := identity()
	if err != nil {
		return err
	}
	election, err := apiserver.NewElection(objects.client, name, component(log, "election"))
	if err != nil {
		return err
	}
	gaugeLeading(registry, func() bool { return election.Leading() == nil })
	store := apiserver.NewStore(objects.client, objects.Source, election.Leading)
	control := controller.New(objects, store, o.kube(), component(log, "controller"))
	control.RecordOn(objects.events)
	gaugeIssues(registry, func() int { return len(control.Issues()) })
	sync := measured(registry, control.Sync)

	log.Info("controller starts", "version", version, "objects", o.objects(), "identity", name)
	standby.Trigger()
	group.Go(func() error { return standby.Run(ctx) })
	group.Go(func() error {
		return election.Run(ctx, func(ctx context.Context) error {
			loop := syncloop.New(sync, syncloop.Options{Logger: component(log, "syncloop")})
			running.Store(loop)
			defer running.Store(nil)
			loop.Trigger()
			group, ctx := errgroup.WithContext(ctx)
			group.Go(func() error { return loop.Run(ctx) })
			group.Go(func() error { return createPeerKeys(ctx, store, component(log, "controller")) })
			return group.Wait()
		})
	})
	return group.Wait()
}

// createPeerKeys makes sure of the key once in a lead. If somebody deletes it later, nodes go on with the one that they have: to
// give a new one to some of them would part them from the others.
func createPeerKeys(ctx context.Context, store *apiserver.Store, log *slog.Logger) error {
	attempt, succeeded := context.WithCancel(ctx)
	defer succeeded()
	loop := syncloop.New(func(ctx context.Context) error {
		made, err := store.CreatePeerKeys(ctx, peerkeys.New())
		if made {
			log.Info("made the key that nodes know each other by", "secret", kube.Namespace+"/"+kube.PeerKeysSecret)
		}
		if err == nil {
			succeeded()
		}
		return err
	}, syncloop.Options{Logger: log})
	loop.Trigger()
	return loop.Run(attempt)
}

// knowsAll tells why a controller could not follow at once if the leader went. One that waits for its turn is ready.
func knowsAll(knows *atomic.Bool) error {
	if !knows.Load() {
		return errors.New("the API server has not told all objects yet: see the controller's log")
	}
	return nil
}

// alwaysReady is for a controller that has read all objects before it answers.
func alwaysReady() error { return nil }

// component gives a logger for one part of the process.
func component(log *slog.Logger, name string) *slog.Logger { return log.With("component", name) }
