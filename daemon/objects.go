// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/kube/apiserver"
	"github.com/sluice-lb/sluice/daemon/internal/kube/manifest"
	"github.com/sluice-lb/sluice/daemon/internal/syncloop"
)

// source is where Services, networks and the rest come from.
type source interface {
	Objects() kube.Objects
	Run(ctx context.Context) error
	Close() error
}

// directory is a source that holds nothing open.
type directory struct {
	*manifest.Source

	valid *kube.LastValid
}

// Objects is source's.
func (d directory) Objects() kube.Objects { return d.valid.Restore(d.Source.Objects()) }

// Close is source's.
func (directory) Close() error { return nil }

// open opens the agent's source, and connects the pipeline with what else an API server is told of: this node's facts, and
// events. The function runs the writer of the facts; users of a directory write those themselves.
func (p *pipeline) open(ctx context.Context, o options, log *slog.Logger, notify func()) (
	from source, facts func(context.Context) error, err error,
) {
	if o.manifests != "" {
		p.publish, p.events = func(apiserver.Facts) {}, kube.NoEvents{}
		files, err := openManifests(o, log, notify)
		return files, func(context.Context) error { return nil }, err
	}
	objects, err := openAPI(ctx, o, apiserver.Agent, log, notify)
	if err != nil {
		return nil, nil, err
	}
	log = component(log, "facts")
	writer := apiserver.NewFactsWriter(objects.client, objects.Source, o.nodeName, log)
	loop := syncloop.New(writer.Write, syncloop.Options{RetryMax: factsRetry, Logger: log})
	p.events = objects.events
	p.publish = func(facts apiserver.Facts) {
		writer.Set(facts)
		loop.Trigger()
	}
	return objects, loop.Run, nil
}

// factsRetry is the longest time between two attempts to publish a node's facts: without them it owns nothing.
const factsRetry = 10 * time.Second

// apiObjects are those of an API server, and what else there is to do with one.
type apiObjects struct {
	*apiserver.Source

	valid  kube.LastValid
	client *apiserver.Client
	events *apiserver.Events
	stop   context.CancelCauseFunc // ends the watching
	ended  chan struct{}
}

// Objects is source's.
func (a *apiObjects) Objects() kube.Objects { return a.valid.Restore(a.Source.Objects()) }

// Run waits: the watching began when it was opened.
func (a *apiObjects) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Close ends the watching and the events.
func (a *apiObjects) Close() error {
	a.stop(errors.New("closed"))
	<-a.ended
	a.events.Close()
	return nil
}

// openManifests reads a directory. All of it has been read when it returns.
func openManifests(o options, log *slog.Logger, notify func()) (directory, error) {
	files, err := manifest.Open(o.manifests, component(log, "manifest"), notify)
	return directory{files, &kube.LastValid{}}, err
}

// openAPI watches an API server, and returns when it knows all objects: nobody may take for gone what it only does not know
// yet. As long as no server answers, it waits.
func openAPI(ctx context.Context, o options, role apiserver.Role, log *slog.Logger, notify func()) (*apiObjects, error) {
	log = component(log, "apiserver")
	apiserver.LogTo(log)
	name, host := "sluice-controller", ""
	if role == apiserver.Agent {
		name, host = "sluice-agent", o.nodeName
	}
	client, err := apiserver.NewClient(o.kubeconfig, name+"/"+version)
	if err != nil {
		return nil, err
	}
	source, err := apiserver.NewSource(client, role, log, notify)
	if err != nil {
		return nil, err
	}
	a := &apiObjects{
		Source: source, client: client, ended: make(chan struct{}),
		events: apiserver.NewEvents(client, source, name, host, log),
	}
	watching, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	a.stop = stop
	go func() {
		defer close(a.ended)
		_ = source.Run(watching) // returns nil
	}()
	log.Info("reading the objects", "server", client.Host())
	if err := source.WaitForSync(ctx); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// identity names this process among the controllers, for good: one that comes back under its name is another.
func identity() (string, error) {
	name := os.Getenv("POD_NAME")
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return "", fmt.Errorf("name this controller: %w", err)
		}
	}
	return name + "_" + rand.Text()[:8], nil
}
