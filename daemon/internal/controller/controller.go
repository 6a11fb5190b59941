// SPDX-License-Identifier: Apache-2.0

// Package controller owns what the cluster is told: which VIP each Service has on each network, the EndpointSlices of
// secondary addresses, and the Services' status. Plan decides, purely; Controller carries the plan out. It must not
// touch nodes, and it must not give a VIP other than by creating its claim.
package controller

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// maxPasses bounds how often one Sync plans anew because an address came free. A VIP that moves from one Service to
// another takes two passes; what needs more waits for the next Sync.
const maxPasses = 4

// Source gives the objects. It must know the Store's writes at once.
type Source interface {
	Objects() kube.Objects
}

// Store keeps objects. It must not change those that it is given.
type Store interface {
	// Create stores a new object, atomically: of two that create one name, one gets an error for which
	// errors.Is(err, fs.ErrExist) holds.
	Create(ctx context.Context, object kube.Object) error
	// Update replaces an object. One that has a resource version is replaced only if it still has that; a claim always has.
	Update(ctx context.Context, object kube.Object) error
	// UpdateServiceStatus writes a Service's status and kube.AnnotationVIPs, and nothing else of it.
	UpdateServiceStatus(ctx context.Context, svc *corev1.Service) error
	// Delete removes an object, if it still has the UID and the resource version that it is given with. Deleting what is
	// absent succeeds.
	Delete(ctx context.Context, object kube.Object) error
}

// Controller keeps a Store as Plan wants it.
type Controller struct {
	source Source
	store  Store
	events kube.Events
	logger *slog.Logger

	planner *planner // of Sync
	done    done     // likewise

	mu     sync.Mutex
	issues []lb.Issue // of the last Sync; guarded by mu
}

// New makes a controller. Sync drives it.
func New(source Source, store Store, opts kube.Options, logger *slog.Logger) *Controller {
	return &Controller{source: source, store: store, planner: newPlanner(opts), events: kube.NoEvents{}, logger: logger}
}

// RecordOn makes the controller tell of issues, and of VIPs that it gives. It must be called before Sync.
func (c *Controller) RecordOn(events kube.Events) { c.events = events }

// Sync brings the store to what the source's objects call for. It goes on after an error, and returns all of them;
// doing it again is safe. Issues about objects are no errors: each is logged when it appears, and shown by Issues. Sync
// must not be called twice at the same time.
func (c *Controller) Sync(ctx context.Context) error {
	var plan Plan
	var err error
	for range maxPasses {
		objects := c.source.Objects()
		plan = c.planner.plan(objects, time.Now())
		run := newExecution(c.store, c.events, c.logger, objects, plan, &c.done)
		err = run.do(ctx)
		if !run.released || ctx.Err() != nil {
			break
		}
	}
	c.report(plan.Issues)
	return err
}

// Issues gives what the last Sync found wrong with objects, sorted.
func (c *Controller) Issues() []lb.Issue {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.issues
}

func (c *Controller) report(issues []lb.Issue) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := make(map[lb.Issue]bool, len(c.issues))
	for _, issue := range c.issues {
		known[issue] = true
	}
	for _, issue := range issues {
		if !known[issue] {
			c.logger.Warn(issue.Message, "object", issue.Object, "reason", issue.Reason)
			c.events.Warn(issue.Object, issue.Reason, issue.Message)
		}
		delete(known, issue)
	}
	for _, issue := range c.issues {
		if known[issue] {
			c.logger.Info("issue is gone", "object", issue.Object, "reason", issue.Reason)
		}
	}
	c.issues = slices.Clone(issues)
}
