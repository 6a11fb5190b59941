// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// findOverlaps reports pools of a family that overlap in part. Equal pools on one segment are one pool: teams copy NADs.
func (a *allocator) findOverlaps(networks []kube.Network, family corev1.IPFamily) {
	type poolKey struct{ segment, pool string }
	distinct := map[poolKey]kube.Network{} // the first of those that are equal
	for _, network := range networks {
		key := poolKey{network.Segment, pool(network, family).String()}
		if _, ok := distinct[key]; !ok {
			distinct[key] = network
		}
	}
	keys := slices.SortedFunc(maps.Keys(distinct), func(x, y poolKey) int {
		return cmp.Or(cmp.Compare(x.segment, y.segment), cmp.Compare(x.pool, y.pool))
	})
	partner := map[poolKey]kube.Network{}
	for i, x := range keys {
		for _, y := range keys[i+1:] {
			if x.segment == y.segment && pool(distinct[x], family).Overlaps(pool(distinct[y], family)) {
				partner[x], partner[y] = distinct[y], distinct[x]
			}
		}
	}
	for _, network := range networks {
		other, ok := partner[poolKey{network.Segment, pool(network, family).String()}]
		if !ok {
			continue
		}
		a.overlap[poolOf{network.Name, family}] = other.Name
		a.issues = append(a.issues, lb.Issue{
			Object: network.Object(), Reason: ReasonPoolOverlap,
			Message: fmt.Sprintf("\"vips\" (%s) overlap those of %s (%s) on segment %s, so neither gives a new VIP: "+
				"make them equal, or apart", pool(network, family), other.Name, pool(other, family), network.Segment),
		})
	}
}
