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
// its claim names the Service, and a claim loses a Service only when its status does not show the VIP. Nodes follow the
// claims, each as soon as it hears of them: while a VIP goes from one Service to another, some may serve it for the one,
// some for nobody, and some for the other, for as long as the news take. A claim comes after its endpoints and goes before
// them, so that no node refuses connections that it will take in a moment.
type execution struct {
	store   Store
	events  kube.Events
	logger  *slog.Logger
	objects kube.Objects
	plan    Plan

	planned  map[string]kube.Claim   // claims of the plan, by name
	of       map[string][]kube.Claim // the same, by Service
	claims   map[string]stored       // that exist, by name
	holders  map[string]string       // of the Services that exist, by name
	shown    map[string]vips         // by every Service's status, as written so far
	written  map[string]bool         // Services whose status is as planned
	failed   map[string]bool         // claims that could not be written
	released bool                    // an address, or a port of one, came free
	acted    bool                    // something was written, or should have been
	errs     []error

	done    *done
	settled bool // claims and statuses need no look
}

// stored is a claim in the store. One that cannot be read is empty, and shown by nobody.
type stored struct {
	kube.Claim
	lease *coordinationv1.Lease
}

func newExecution(store Store, events kube.Events, logger *slog.Logger, objects kube.Objects, plan Plan, done *done) *execution {
	e := &execution{
		store: store, events: events, logger: logger, objects: objects, plan: plan,
		done: done, settled: done.holds(objects, plan),
		planned: map[string]kube.Claim{}, of: map[string][]kube.Claim{},
		claims: map[string]stored{}, holders: map[string]string{}, shown: map[string]vips{}, written: map[string]bool{}, failed: map[string]bool{},
	}
	if e.settled {
		return e
	}
	for _, lease := range plan.Claims {
		c, err := kube.ParseClaim(lease)
		if err != nil {
			panic(err) // the plan wrote it
		}
		e.planned[lease.Name] = c
		for i, s := range c.Sharers {
			if i == 0 || c.Sharers[i-1].Service != s.Service {
				e.of[s.Service] = append(e.of[s.Service], c)
			}
		}
	}
	for _, lease := range objects.Leases {
		if kube.IsClaim(lease) {
			c, _ := kube.ParseClaim(lease) // NewPlan reports what is wrong
			e.claims[lease.Name] = stored{c, lease}
		}
	}
	for _, svc := range objects.Services {
		e.holders[nameOf(svc)], e.shown[nameOf(svc)] = kube.HolderOf(svc), vipsOf(svc)
	}
	return e
}

func (e *execution) do(ctx context.Context) error {
	if e.settled {
		e.deleteSlices(ctx, e.writeSlices(ctx))
		return errors.Join(e.errs...)
	}
	e.forgetOrphans(ctx)
	e.writeStatuses(ctx, e.onlyLoses)
	unwanted := e.writeSlices(ctx)
	e.writeClaims(ctx)
	e.writeStatuses(ctx, e.hasClaims)
	e.writeClaims(ctx)
	e.deleteSlices(ctx, unwanted)
	if !e.acted {
		e.done.remember(e.objects, e.plan)
	}
	return errors.Join(e.errs...)
}

// try notes a write and its error, and tells whether there was none.
func (e *execution) try(err error, format string, args ...any) bool {
	e.acted = true
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
		for _, s := range c.Sharers {
			if s.Service == name && slices.Contains(vips[s.Network], c.Addr) && e.claims[c.Name()].Has(s) {
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
		case e.failed[name] || exists && wanted && have.Equal(want) || exists && e.takesShown(have.Claim, want):
			continue
		case exists && goesOn(have.Claim, want):
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

// takesShown tells whether a change of a claim takes a VIP away that a status still shows. A Service that was deleted and
// made anew, from a copy that shows what the former had, takes over from that in one write.
func (e *execution) takesShown(have, want kube.Claim) bool {
	return slices.ContainsFunc(have.Sharers, func(s kube.Sharer) bool { return !hasName(want, s) && e.isShown(have, s) })
}

// isShown tells whether the status of a sharer counts on a claim.
func (e *execution) isShown(c kube.Claim, s kube.Sharer) bool {
	if !slices.Contains(e.shown[s.Service][s.Network], c.Addr) {
		return false
	}
	return !e.hasElsewhere(c, s) // the status then stands for the claim there
}

// hasElsewhere tells whether a sharer has the address of a claim on another segment too. A network that moves there may
// keep its addresses.
func (e *execution) hasElsewhere(c kube.Claim, s kube.Sharer) bool {
	return slices.ContainsFunc(e.of[s.Service], func(other kube.Claim) bool {
		return other.Place != c.Place && other.Addr == c.Addr && other.Has(s) && e.claims[other.Name()].Has(s)
	})
}

// hasName tells whether a claim gives its VIP to a Service of a sharer's name, on the sharer's network.
func hasName(c kube.Claim, s kube.Sharer) bool {
	return slices.ContainsFunc(c.Sharers, func(o kube.Sharer) bool { return o.Service == s.Service && o.Network == s.Network })
}

// goesOn tells whether somebody of a claim has the VIP by another claim for the same place, too.
func goesOn(have, want kube.Claim) bool {
	return slices.ContainsFunc(have.Sharers, func(s kube.Sharer) bool { return hasName(want, s) })
}

func (e *execution) createClaim(ctx context.Context, want kube.Claim) {
	name, lease := want.Name(), want.Lease()
	if e.failed[name] = !e.try(e.store.Create(ctx, lease), "claim %s for %s", want.Addr, want.Users()); e.failed[name] {
		return
	}
	e.claims[name] = stored{want, lease}
	e.logger.Info("vip given", "vip", want.Addr, "to", want.Users())
	e.tellNew(want, kube.Claim{})
}

// tellNew tells those of a claim who had no part in it before that they have its VIP.
func (e *execution) tellNew(c, before kube.Claim) {
	for _, s := range c.Sharers {
		if !before.Has(s) {
			e.events.Tell("Service "+s.Service, ReasonAllocated, fmt.Sprintf("%s has %s", s.Network, c.Addr))
		}
	}
}

// tellLost tells those who had a VIP by a claim, and have it by none any more, as far as they still exist.
func (e *execution) tellLost(had, has kube.Claim) {
	for _, s := range had.Sharers {
		if has.Has(s) || e.hasElsewhere(had, s) || e.holders[s.Service] != s.Holder {
			continue
		}
		e.events.Tell("Service "+s.Service, ReasonReleased, fmt.Sprintf("%s is no VIP of it on %s any more", had.Addr, s.Network))
	}
}

func (e *execution) updateClaim(ctx context.Context, have stored, want kube.Claim) {
	name, lease := want.Name(), want.Lease()
	lease.ResourceVersion, lease.UID = have.lease.ResourceVersion, have.lease.UID
	if e.failed[name] = !e.try(e.store.Update(ctx, lease), "change the claim of %s to %s", want.Addr, want.Users()); e.failed[name] {
		return
	}
	e.claims[name] = stored{want, lease}
	lost := func(s kube.Sharer) bool { return !want.Has(s) }
	e.released = e.released || slices.ContainsFunc(have.Sharers, lost)
	e.logger.Info("vip shared anew", "vip", want.Addr, "by", want.Users())
	e.tellNew(want, have.Claim)
	e.tellLost(have.Claim, want)
}

func (e *execution) deleteClaim(ctx context.Context, have stored) {
	name := have.lease.Name
	if e.failed[name] = !e.try(e.store.Delete(ctx, have.lease), "release claim %s of %s", name, have.Users()); e.failed[name] {
		return
	}
	delete(e.claims, name)
	e.released = true
	e.logger.Info("vip released", "claim", name, "by", have.Users())
	e.tellLost(have.Claim, kube.Claim{})
}

// writeSlices creates and updates slices, and gives those that are to be deleted: later, so that no endpoint is gone
// between two slices. Objects and plan are both sorted.
func (e *execution) writeSlices(ctx context.Context) (unwanted []*discoveryv1.EndpointSlice) {
	known, stored := e.done.slices, e.objects.Slices
	e.done.slices = make(map[*discoveryv1.EndpointSlice]*discoveryv1.EndpointSlice, len(e.plan.Slices))
	for _, want := range e.plan.Slices {
		for len(stored) > 0 && stored[0] != known[want] && byName(stored[0], want) < 0 {
			unwanted, stored = append(unwanted, stored[0]), stored[1:]
		}
		var old *discoveryv1.EndpointSlice
		if len(stored) > 0 && (stored[0] == known[want] || byName(stored[0], want) == 0) {
			old, stored = stored[0], stored[1:]
		}
		switch {
		case old == nil || !kube.OwnSlice(old):
			e.try(e.store.Create(ctx, want), "create EndpointSlice %s", nameOf(want))
		case old == known[want] || sameSlice(old, want):
			e.done.slices[want] = old
		default:
			next := want.DeepCopy()
			next.ResourceVersion, next.UID = old.ResourceVersion, old.UID
			e.try(e.store.Update(ctx, next), "update EndpointSlice %s", nameOf(want))
		}
	}
	return append(unwanted, stored...)
}

func (e *execution) deleteSlices(ctx context.Context, unwanted []*discoveryv1.EndpointSlice) {
	for _, slice := range unwanted {
		if kube.OwnSlice(slice) {
			e.try(e.store.Delete(ctx, slice), "delete EndpointSlice %s", nameOf(slice))
		}
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
