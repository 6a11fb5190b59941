// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
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
	return newPlanner(opts).plan(objects, now)
}

// olderFirst is the order in which Services choose; of two that claim one port of a VIP, nodes serve the first in this order
// (lb.Compile).
func olderFirst(a, b kube.Request) int {
	at, bt := a.Service.CreationTimestamp, b.Service.CreationTimestamp
	return cmp.Or(at.Compare(bt.Time), byName(a.Service, b.Service))
}

func byName[T kube.Object](a, b T) int {
	return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
}
