// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// Reasons of issues that only the controller finds, and of events about VIPs. They are stable, like those of package kube.
const (
	ReasonAllocated            = "Allocated" // of the condition when nothing is wrong, and of a VIP that is given
	ReasonReleased             = "Released"  // of a VIP that is taken back
	ReasonNetworkNotFound      = "NetworkNotFound"
	ReasonNamespaceNotAllowed  = "NamespaceNotAllowed"
	ReasonNoPool               = "NoPool"
	ReasonPoolExhausted        = "PoolExhausted"
	ReasonPoolOverlap          = "PoolOverlap"
	ReasonAddressNotInPool     = "AddressNotInPool"
	ReasonAddressInUse         = "AddressInUse"
	ReasonTooManyAddresses     = "TooManyAddresses"
	ReasonSharingConflict      = "SharingConflict"
	ReasonNotShared            = "NotShared"
	ReasonInvalidNetworkStatus = "InvalidNetworkStatus"
	ReasonNoNode               = "NoNode"
	ReasonNoMAC                = "NoMAC"
	ReasonDuplicateAddress     = "DuplicateAddress"
	ReasonUnresolvedPort       = "UnresolvedPort"
	ReasonSlicePassedOver      = "SlicePassedOver"
	ReasonEndpointNotAttached  = "EndpointNotAttached"
)

// Plan is what the store shall hold. Equal objects, in whatever order, give equal plans.
type Plan struct {
	Claims []*coordinationv1.Lease
	Slices []*discoveryv1.EndpointSlice
	// Statuses are Services with the status and AnnotationVIPs that they shall have: those that are ours, and those that
	// were and still say so.
	Statuses []*corev1.Service
	Issues   []lb.Issue // sorted
}

// NewPlan decides. It keeps what works: a claim stays with its Service as long as both want it, and an endpoint stays
// in its slice. The time goes into conditions that change.
func NewPlan(objects kube.Objects, opts kube.Options, now time.Time) Plan {
	networks, issues := objects.ParseNetworks()
	plan := Plan{Issues: append(slices.Clone(objects.Issues), issues...)}

	var requests []kube.Request
	for _, svc := range objects.Services {
		if request, ours := opts.Request(svc); ours && request.Yields {
			plan.Issues = append(plan.Issues, request.Issues...)
			plan.Statuses = append(plan.Statuses, yieldingStatus(request, now))
		} else if ours {
			requests = append(requests, request)
		} else if status, changed := withoutStatus(svc); changed {
			plan.Statuses = append(plan.Statuses, status)
		}
	}
	// The oldest chooses first; of two that claim one port of a VIP, nodes serve the first in this order (lb.Compile).
	slices.SortStableFunc(requests, func(a, b kube.Request) int {
		at, bt := a.Service.CreationTimestamp, b.Service.CreationTimestamp
		return cmp.Or(at.Compare(bt.Time), byName(a.Service, b.Service))
	})

	pods, podIssues := readPods(objects.Pods, objects.Nodes, networks)
	plan.Issues = append(plan.Issues, podIssues...)
	a := newAllocator(objects, networks, pods)
	a.allocate(requests)
	plan.Claims = a.leases()
	plan.Issues = append(plan.Issues, a.issues...)

	own, written := map[string][]*discoveryv1.EndpointSlice{}, map[string][]*discoveryv1.EndpointSlice{} // by Service
	for _, slice := range objects.Slices {
		if kube.OwnSlice(slice) {
			own[kube.SliceService(slice)] = append(own[kube.SliceService(slice)], slice)
		} else if service, ok := kube.WrittenFor(slice); ok {
			written[service] = append(written[service], slice)
		}
	}
	for _, request := range requests {
		s := slicer{Request: request, served: a.served(request), networks: a.usable(request), pods: pods}
		made, issues := s.slices(own[request.Name()], written[request.Name()])
		plan.Slices = append(plan.Slices, made...)
		issues = slices.Concat(request.Issues, a.refused[request.Name()], a.noted[request.Name()], issues)
		plan.Issues = append(plan.Issues, issues...)
		plan.Statuses = append(plan.Statuses, withStatus(request, a, issues, now))
	}
	kube.SortIssues(plan.Issues)
	plan.Issues = slices.Compact(plan.Issues)
	slices.SortFunc(plan.Statuses, byName[*corev1.Service])
	slices.SortFunc(plan.Slices, byName[*discoveryv1.EndpointSlice])
	return plan
}

func byName[T kube.Object](a, b T) int {
	return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
}
