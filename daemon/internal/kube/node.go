// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

// convertNode reads a node's facts. A node without segments is known, and no candidate for any VIP.
func convertNode(lease *coordinationv1.Lease) (lb.Node, []lb.Issue) {
	node := lb.Node{Name: lease.Name}
	var issues []lb.Issue
	refuse := func(format string, args ...any) {
		issues = append(issues, lb.Issue{
			Object: "Lease " + lease.Namespace + "/" + lease.Name, Reason: ReasonInvalidNodeFacts,
			Message: fmt.Sprintf(format, args...),
		})
	}
	for entry := range strings.SplitSeq(lease.Annotations[AnnotationSegments], ",") {
		segment := strings.TrimSpace(entry)
		if segment != "" && !slices.Contains(node.Segments, segment) {
			node.Segments = append(node.Segments, segment)
		}
	}
	slices.Sort(node.Segments)
	if _, ok := lease.Annotations[AnnotationSegments]; !ok { // an agent writes an empty one while it serves nowhere
		refuse("annotation %s names no segment, so the node owns no VIP: list its segments, such as %q",
			AnnotationSegments, "eth1, bond0")
	}
	if text := lease.Annotations[AnnotationMACs]; text != "" {
		if err := json.Unmarshal([]byte(text), &node.MACs); err != nil {
			node.MACs = nil
			refuse("annotation %s is no map from segment to MAC, so peers do not know the node's packets: write it like %s (%v)",
				AnnotationMACs, `{"eth1":"02:00:5e:20:00:01"}`, err)
		}
	}
	for segment, mac := range node.MACs {
		if mac.IsZero() {
			delete(node.MACs, segment)
			refuse("annotation %s gives segment %q no MAC: write that of the node's master", AnnotationMACs, segment)
		}
	}
	return node, issues
}

// FormatMasterMACs writes AnnotationMACs of a node's facts, sorted by segment.
func FormatMasterMACs(macs map[string]ether.MAC) string {
	text, err := json.Marshal(macs)
	if err != nil {
		panic(err) // names and MACs always have a text form
	}
	return string(text)
}
