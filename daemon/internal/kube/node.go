// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// convertNode reads a node's facts. A node without segments is known, and no candidate for any VIP.
func convertNode(lease *coordinationv1.Lease) (lb.Node, []lb.Issue) {
	node := lb.Node{Name: lease.Name}
	for entry := range strings.SplitSeq(lease.Annotations[AnnotationSegments], ",") {
		segment := strings.TrimSpace(entry)
		if segment != "" && !slices.Contains(node.Segments, segment) {
			node.Segments = append(node.Segments, segment)
		}
	}
	slices.Sort(node.Segments)
	if len(node.Segments) > 0 {
		return node, nil
	}
	return node, []lb.Issue{{
		Object: "Lease " + lease.Namespace + "/" + lease.Name, Reason: ReasonInvalidNodeFacts,
		Message: fmt.Sprintf("annotation %s names no segment, so the node owns no VIP: list its segments, such as %q",
			AnnotationSegments, "eth1, bond0"),
	}}
}
