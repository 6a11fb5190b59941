// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/internal/ether"
)

// Facts are what peers need to know of a node: by segment, the MAC of its master, the address by which they watch it, if it has
// one, and whether it can serve VIPs there.
type Facts struct {
	MACs  map[string]ether.MAC
	Addrs map[string]netip.Addr
	Ready []string // segments
}

// FactsWriter keeps a node's facts in its Lease, which is written when they change and never renewed. The facts stay when the
// agent ends: what the node has programmed serves on. Set and Write may be called at the same time.
type FactsWriter struct {
	client *Client
	source *Source
	node   string
	logger *slog.Logger
	facts  atomic.Pointer[Facts] // nil until they are known
}

// NewFactsWriter makes a writer for the node of that name.
func NewFactsWriter(c *Client, source *Source, node string, logger *slog.Logger) *FactsWriter {
	return &FactsWriter{client: c, source: source, node: node, logger: logger}
}

// Set says what the facts are now, for the next Write.
func (w *FactsWriter) Set(facts Facts) {
	facts.Ready = slices.Sorted(slices.Values(facts.Ready))
	w.facts.Store(&facts)
}

// Write makes the Lease what it must be, also if somebody else has changed or deleted it. If it is so already, or no facts are
// known yet, nothing is sent.
func (w *FactsWriter) Write(ctx context.Context) error {
	facts := w.facts.Load()
	if facts == nil {
		return nil
	}
	node, ok := w.source.nodes.find(types.NamespacedName{Name: w.node})
	if !ok {
		return fmt.Errorf("the API server has no node %q: give the name that Kubernetes knows this node by with --node-name", w.node)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	leases := w.client.kube.CoordinationV1().Leases(kube.Namespace)
	want := factsLease(node, *facts)
	have, ok := w.source.leases.find(nameOf(want))
	var err error
	switch {
	case !ok:
		have, err = leases.Create(ctx, want, metav1.CreateOptions{})
	case sameFacts(have, want):
		return nil
	default:
		want.ResourceVersion = have.ResourceVersion
		have, err = leases.Update(ctx, want, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("publish this node's facts: %w", err)
	}
	w.source.leases.wrote(have)
	w.source.notify()
	w.logger.Info("published this node's facts", "macs", want.Annotations[kube.AnnotationMACs],
		"addresses", want.Annotations[kube.AnnotationAddresses], "ready", want.Annotations[kube.AnnotationSegments])
	return nil
}

// factsLease gives the Lease of a node's facts. It goes with the node.
func factsLease(node *corev1.Node, facts Facts) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: kube.Namespace, Name: node.Name,
			Labels: map[string]string{kube.LabelNodeFacts: "true"},
			Annotations: map[string]string{
				kube.AnnotationSegments:  strings.Join(facts.Ready, ","),
				kube.AnnotationMACs:      kube.FormatBySegment(facts.MACs),
				kube.AnnotationAddresses: kube.FormatBySegment(facts.Addrs),
			},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &node.Name},
	}
}

func sameFacts(a, b *coordinationv1.Lease) bool {
	return maps.Equal(a.Annotations, b.Annotations) && maps.Equal(a.Labels, b.Labels) &&
		slices.Equal(a.OwnerReferences, b.OwnerReferences)
}
