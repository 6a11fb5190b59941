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

// execution carries one plan out. Its order is what keeps a VIP from being given twice: a claim is deleted only when no
// status shows its VIP, and a status shows a VIP only when its claim exists.
type execution struct {
	store   Store
	events  Events
	logger  *slog.Logger
	objects kube.Objects
	plan    Plan

	planned  map[string][]*coordinationv1.Lease // claims of the plan, by Service
	claims   map[string]*coordinationv1.Lease   // that exist, by name
	shown    map[string]vips                    // by every Service's status, as written so far
	written  map[string]bool                    // Services whose status is as planned
	released bool                               // an address came free
	errs     []error
}

func newExecution(store Store, events Events, logger *slog.Logger, objects kube.Objects, plan Plan) *execution {
	e := &execution{
		store: store, events: events, logger: logger, objects: objects, plan: plan, planned: map[string][]*coordinationv1.Lease{},
		claims: map[string]*coordinationv1.Lease{}, shown: map[string]vips{}, written: map[string]bool{},
	}
	for _, lease := range plan.Claims {
		service := lease.Annotations[kube.AnnotationService]
		e.planned[service] = append(e.planned[service], lease)
	}
	for _, lease := range objects.Leases {
		if lease.Namespace == kube.Namespace && lease.Labels[kube.LabelClaim] == "true" {
			e.claims[lease.Name] = lease
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
	e.deleteClaims(ctx)
	e.createClaims(ctx)
	e.writeSlices(ctx)
	e.writeStatuses(ctx, e.hasClaims)
	e.deleteClaims(ctx)
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
	for _, lease := range e.planned[name] {
		c, err := parseClaim(lease)
		if err == nil && slices.Contains(vips[c.network], c.addr) && sameClaim(e.claims[lease.Name], lease) {
			missing--
		}
	}
	return missing == 0
}

// sameClaim tells whether a stored claim gives the same VIP to the same claimant.
func sameClaim(stored, want *coordinationv1.Lease) bool {
	if stored == nil {
		return false
	}
	a, errA := parseClaim(stored)
	b, errB := parseClaim(want)
	return errA == nil && errB == nil && a == b
}

func (e *execution) createClaims(ctx context.Context) {
	for _, want := range e.plan.Claims {
		if e.claims[want.Name] != nil {
			continue // it is there, or will be when its former holder shows it no more
		}
		vip, service := want.Annotations[kube.AnnotationAddress], want.Annotations[kube.AnnotationService]
		if e.try(e.store.Create(ctx, want), "claim %s for Service %s", vip, service) {
			e.claims[want.Name] = want
			network := want.Annotations[kube.AnnotationNetwork]
			e.logger.Info("vip given", "vip", vip, "service", service, "network", network)
			e.events.Tell("Service "+service, ReasonAllocated, fmt.Sprintf("%s has %s", network, vip))
		}
	}
}

// deleteClaims deletes the claims that the plan does not want, except those whose VIP a status still shows.
func (e *execution) deleteClaims(ctx context.Context) {
	planned := map[string]*coordinationv1.Lease{}
	for _, lease := range e.plan.Claims {
		planned[lease.Name] = lease
	}
	for _, name := range slices.Sorted(maps.Keys(e.claims)) {
		lease := e.claims[name]
		if want := planned[name]; want != nil && sameClaim(lease, want) || e.isShown(lease) {
			continue
		}
		vip, service := lease.Annotations[kube.AnnotationAddress], lease.Annotations[kube.AnnotationService]
		if e.try(e.store.Delete(ctx, lease), "release %s of Service %s", vip, service) {
			delete(e.claims, name)
			e.released = true
			e.logger.Info("vip released", "vip", vip, "service", service, "network", lease.Annotations[kube.AnnotationNetwork])
		}
	}
}

func (e *execution) isShown(lease *coordinationv1.Lease) bool {
	c, err := parseClaim(lease)
	return err == nil && slices.Contains(e.shown[c.service][c.network], c.addr)
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
