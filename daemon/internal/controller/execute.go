// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// vips is what a Service's status shows: the addresses on each network.
type vips map[string][]netip.Addr

// execution carries one plan out. Its order is what keeps a VIP from being given twice: a status shows a VIP only when
// its claim names the Service, and a claim loses a Service only when its status does not show the VIP.
type execution struct {
	store   Store
	events  Events
	logger  *slog.Logger
	objects kube.Objects
	plan    Plan

	planned  map[string]claim   // claims of the plan, by name
	of       map[string][]claim // the same, by Service
	claims   map[string]stored  // that exist, by name
	shown    map[string]vips    // by every Service's status, as written so far
	written  map[string]bool    // Services whose status is as planned
	failed   map[string]bool    // claims that could not be written
	released bool               // an address, or a port of one, came free
	errs     []error
}

// stored is a claim in the store. One that cannot be read is empty, and shown by nobody.
type stored struct {
	claim
	lease *coordinationv1.Lease
}

func newExecution(store Store, events Events, logger *slog.Logger, objects kube.Objects, plan Plan) *execution {
	e := &execution{
		store: store, events: events, logger: logger, objects: objects, plan: plan,
		planned: map[string]claim{}, of: map[string][]claim{},
		claims: map[string]stored{}, shown: map[string]vips{}, written: map[string]bool{}, failed: map[string]bool{},
	}
	for _, lease := range plan.Claims {
		c, err := parseClaim(lease)
		if err != nil {
			panic(err) // the plan wrote it
		}
		e.planned[lease.Name] = c
		for i, s := range c.sharers {
			if i == 0 || c.sharers[i-1].service != s.service {
				e.of[s.service] = append(e.of[s.service], c)
			}
		}
	}
	for _, lease := range objects.Leases {
		if lease.Namespace == kube.Namespace && lease.Labels[kube.LabelClaim] == "true" {
			c, _ := parseClaim(lease) // NewPlan reports what is wrong
			e.claims[lease.Name] = stored{c, lease}
		}
	}
	for _, svc := range objects.Services {
		e.shown[nameOf(svc)] = vipsOf(svc)
	}
	return e
}

func (e *execution) do(ctx context.Context) error {
	e.forgetOrphans(ctx)
	e.writeStatuses(ctx, e.onlyLoses)
	e.writeClaims(ctx)
	e.writeSlices(ctx)
	e.writeStatuses(ctx, e.hasClaims)
	e.writeClaims(ctx)
	return errors.Join(e.errs...)
}

// try notes an error, and tells whether there was none.
func (e *execution) try(err error, format string, args ...any) bool {
	if err != nil {
		e.errs = append(e.errs, fmt.Errorf(format+": %w", append(args, err)...))
	}
	return err == nil
}

func (e *execution) forgetOrphans(ctx context.Context) {
	for _, name := range e.objects.Orphans {
		gone := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}}
		e.try(e.store.UpdateServiceStatus(ctx, gone), "remove the status of deleted Service %s", name)
	}
}

// writeStatuses writes those statuses that may be written now.
func (e *execution) writeStatuses(ctx context.Context, may func(want *corev1.Service) bool) {
	current := map[string]*corev1.Service{}
	for _, svc := range e.objects.Services {
		current[nameOf(svc)] = svc
	}
	for _, want := range e.plan.Statuses {
		name := nameOf(want)
		if e.written[name] || !may(want) {
			continue
		}
		if !sameStatus(current[name], want) {
			if !e.try(e.store.UpdateServiceStatus(ctx, want), "write the status of Service %s", name) {
				continue
			}
			e.logger.Info("service status written", "service", name, "vips", want.Annotations[kube.AnnotationVIPs])
		}
		e.written[name] = true
		e.shown[name] = vipsOf(want)
	}
}

func sameStatus(a, b *corev1.Service) bool {
	return a.Annotations[kube.AnnotationVIPs] == b.Annotations[kube.AnnotationVIPs] &&
		equality.Semantic.DeepEqual(a.Status, b.Status)
}

// onlyLoses tells whether a status takes VIPs away and gives none.
func (e *execution) onlyLoses(want *corev1.Service) bool {
	shown := e.shown[nameOf(want)]
	for network, addrs := range vipsOf(want) {
		for _, addr := range addrs {
			if !slices.Contains(shown[network], addr) {
				return false
			}
		}
	}
	return e.hasClaims(want)
}

// hasClaims tells whether every VIP of a status is claimed for its Service.
func (e *execution) hasClaims(want *corev1.Service) bool {
	name, vips := nameOf(want), vipsOf(want)
	missing := 0
	for _, addrs := range vips {
		missing += len(addrs)
	}
	for _, c := range e.of[name] {
		for _, s := range c.sharers {
			if s.service == name && slices.Contains(vips[s.network], c.addr) && e.claims[c.name()].has(s) {
				missing--
			}
		}
	}
	return missing == 0
}

// writeClaims brings each claim as near to the plan as statuses allow. Each is written once in a run, because the store
// takes an update for the version that was read.
func (e *execution) writeClaims(ctx context.Context) {
	names := slices.Collect(maps.Keys(e.claims))
	for name := range e.planned {
		if _, exists := e.claims[name]; !exists {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		have, exists := e.claims[name]
		want, wanted := e.planned[name]
		switch {
		case e.failed[name] || exists && wanted && have.equal(want) || exists && e.takesShown(have.claim, want):
			continue
		case exists && have.goesOn(want):
			e.updateClaim(ctx, have, want)
			continue
		case exists:
			e.deleteClaim(ctx, have)
		}
		if wanted && !e.failed[name] {
			e.createClaim(ctx, want)
		}
	}
}

// takesShown tells whether a change of a claim takes a VIP away that a status still shows.
func (e *execution) takesShown(have, want claim) bool {
	return slices.ContainsFunc(have.sharers, func(s sharer) bool { return !want.has(s) && e.isShown(have, s) })
}

// isShown tells whether the status of a sharer counts on a claim.
func (e *execution) isShown(c claim, s sharer) bool {
	if !slices.Contains(e.shown[s.service][s.network], c.addr) {
		return false
	}
	// A network that moves to another segment may keep its addresses. The status then stands for the claim there.
	return !slices.ContainsFunc(e.of[s.service], func(other claim) bool {
		return other.place != c.place && other.addr == c.addr && other.has(s) && e.claims[other.name()].has(s)
	})
}

func (e *execution) createClaim(ctx context.Context, want claim) {
	name, lease := want.name(), want.lease()
	if e.failed[name] = !e.try(e.store.Create(ctx, lease), "claim %s for %s", want.addr, want.users()); e.failed[name] {
		return
	}
	e.claims[name] = stored{want, lease}
	e.logger.Info("vip given", "vip", want.addr, "to", want.users())
	e.tellNew(want, claim{})
}

// tellNew tells those of a claim who had no part in it before that they have its VIP.
func (e *execution) tellNew(c, before claim) {
	for _, s := range c.sharers {
		if !before.has(s) {
			e.events.Tell("Service "+s.service, ReasonAllocated, fmt.Sprintf("%s has %s", s.network, c.addr))
		}
	}
}

func (e *execution) updateClaim(ctx context.Context, have stored, want claim) {
	name, lease := want.name(), want.lease()
	lease.ResourceVersion, lease.UID = have.lease.ResourceVersion, have.lease.UID
	if e.failed[name] = !e.try(e.store.Update(ctx, lease), "change the claim of %s to %s", want.addr, want.users()); e.failed[name] {
		return
	}
	e.claims[name] = stored{want, lease}
	lost := func(s sharer) bool { return !want.has(s) }
	e.released = e.released || slices.ContainsFunc(have.sharers, lost)
	e.logger.Info("vip shared anew", "vip", want.addr, "by", want.users())
	e.tellNew(want, have.claim)
}

func (e *execution) deleteClaim(ctx context.Context, have stored) {
	name := have.lease.Name
	if e.failed[name] = !e.try(e.store.Delete(ctx, have.lease), "release claim %s of %s", name, have.users()); e.failed[name] {
		return
	}
	delete(e.claims, name)
	e.released = true
	e.logger.Info("vip released", "claim", name, "by", have.users())
}

// writeSlices creates and updates before it deletes, so that no endpoint is gone between two slices.
func (e *execution) writeSlices(ctx context.Context) {
	stored := map[string]*discoveryv1.EndpointSlice{}
	for _, slice := range e.objects.Slices {
		if kube.OwnSlice(slice) {
			stored[nameOf(slice)] = slice
		}
	}
	for _, want := range e.plan.Slices {
		name := nameOf(want)
		old := stored[name]
		delete(stored, name)
		switch {
		case old == nil:
			e.try(e.store.Create(ctx, want), "create EndpointSlice %s", name)
		case !sameSlice(old, want):
			next := want.DeepCopy()
			next.ResourceVersion, next.UID = old.ResourceVersion, old.UID
			e.try(e.store.Update(ctx, next), "update EndpointSlice %s", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(stored)) {
		e.try(e.store.Delete(ctx, stored[name]), "delete EndpointSlice %s", name)
	}
}

func sameSlice(a, b *discoveryv1.EndpointSlice) bool {
	same := equality.Semantic.DeepEqual
	return a.AddressType == b.AddressType && same(a.Labels, b.Labels) && same(a.Annotations, b.Annotations) &&
		same(a.OwnerReferences, b.OwnerReferences) && same(a.Ports, b.Ports) && same(a.Endpoints, b.Endpoints)
}

func vipsOf(svc *corev1.Service) vips {
	parsed, err := kube.ParseVIPs(svc.Annotations[kube.AnnotationVIPs])
	if err != nil {
		return nil // it is written anew
	}
	return parsed
}

func nameOf(object metav1.Object) string { return object.GetNamespace() + "/" + object.GetName() }
