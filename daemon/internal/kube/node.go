// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

// convertNodes reads the facts of every node. Facts that a Node owns make it a candidate for VIPs only while the Node
// exists, is ready, and is not excluded; facts without an owner, as in files, stand for themselves. Where a segment has no
// ready candidate at all, readiness is no reason: after an outage of the control plane every node counts as not ready for
// a while, and VIPs that nobody answers for help nobody.
func (o Objects) convertNodes() ([]lb.Node, []lb.Issue) {
	known := make(map[string]*corev1.Node, len(o.Nodes))
	for _, node := range o.Nodes {
		known[node.Name] = node
	}
	var nodes []lb.Node
	var issues []lb.Issue
	served := map[string]bool{}  // segments with a ready candidate
	unready := map[string]bool{} // nodes that are candidates elsewhere only
	for _, lease := range o.Leases {
		if lease.Labels[LabelNodeFacts] != "true" {
			continue
		}
		node, found := convertNode(lease)
		issues = append(issues, found...)
		owner, owned := ownerNode(lease)
		switch {
		case owned && (known[owner] == nil || isExcluded(known[owner])):
			node.Segments = nil
		case owned && !isReady(known[owner]):
			unready[node.Name] = true
		default:
			for _, segment := range node.Segments {
				served[segment] = true
			}
		}
		nodes = append(nodes, node)
	}
	for i, node := range nodes {
		if unready[node.Name] {
			nodes[i].Segments = slices.DeleteFunc(node.Segments, func(segment string) bool { return served[segment] })
		}
	}
	return nodes, issues
}

// ownerNode gives the name of the Node that owns a Lease.
func ownerNode(lease *coordinationv1.Lease) (name string, owned bool) {
	for _, owner := range lease.OwnerReferences {
		if owner.Kind == "Node" && owner.APIVersion == corev1.SchemeGroupVersion.String() {
			return owner.Name, true
		}
	}
	return "", false
}

func isExcluded(node *corev1.Node) bool {
	_, excluded := node.Labels[corev1.LabelNodeExcludeBalancers]
	return excluded
}

func isReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

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
	if text := lease.Annotations[AnnotationAddresses]; text != "" {
		if err := json.Unmarshal([]byte(text), &node.Addrs); err != nil {
			node.Addrs = nil
			refuse("annotation %s is no map from segment to address, so peers cannot watch the node: write it like %s (%v)",
				AnnotationAddresses, `{"eth1":"192.168.20.2"}`, err)
		}
	}
	return node, issues
}

// FormatBySegment writes AnnotationMACs or AnnotationAddresses of a node's facts, sorted by segment.
func FormatBySegment[T ether.MAC | netip.Addr](values map[string]T) string {
	text, err := json.Marshal(values)
	if err != nil {
		panic(err) // names, MACs and addresses always have a text form
	}
	return string(text)
}
