// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// done is what an execution found to be as planned. Objects and plans are immutable: what is at the same address next time
// needs no second look.
type done struct {
	known             bool
	services, planned []*corev1.Service // stored, and as their status shall be
	leases, claims    []*coordinationv1.Lease
	slices            map[*discoveryv1.EndpointSlice]*discoveryv1.EndpointSlice // that are stored, by what was planned
}

// remember notes that claims and statuses are as planned.
func (d *done) remember(objects kube.Objects, plan Plan) {
	d.known = len(objects.Orphans) == 0
	d.services, d.planned, d.leases, d.claims = objects.Services, plan.Statuses, objects.Leases, plan.Claims
}

// holds tells whether claims and statuses are as they were found.
func (d *done) holds(objects kube.Objects, plan Plan) bool {
	return d.known && len(objects.Orphans) == 0 &&
		slices.Equal(d.services, objects.Services) && slices.Equal(d.planned, plan.Statuses) &&
		slices.Equal(d.leases, objects.Leases) && slices.Equal(d.claims, plan.Claims)
}
