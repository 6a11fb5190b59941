// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/internal/ether"
)

// Facts are what peers need to know of a node: by segment, the MAC of its master, and whether it can serve VIPs there.
type Facts struct {
	MACs  map[string]ether.MAC
	Ready []string // segments
}

// FactsWriter keeps a node's facts in its Lease, which is written when they change and never renewed. Its methods may be
// called at the same time.
type FactsWriter struct {
	client *Client
	source *Source
	node   string
	logger *slog.Logger
	wake   chan struct{} // holds a token while there may be something to write

	mu    sync.Mutex
	facts *Facts // nil until they are known; guarded by mu
}

// NewFactsWriter makes a writer for the node of that name.
func NewFactsWriter(c *Client, source *Source, node string, logger *slog.Logger) *FactsWriter {
	return &FactsWriter{client: c, source: source, node: node, logger: logger, wake: make(chan struct{}, 1)}
}

// Set says what the facts are now, changed or not: somebody may have changed or deleted what the API server holds. It does not
// wait until they are written.
func (w *FactsWriter) Set(facts Facts) {
	facts.Ready = slices.Sorted(slices.Values(facts.Ready))
	w.mu.Lock()
	w.facts = &facts
	w.mu.Unlock()
	w.poke()
}

func (w *FactsWriter) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Limits of the time between two attempts to write.
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 10 * time.Second
)

// Run writes until ctx ends, and then returns nil. The facts stay: what the node has programmed serves on without an agent.
func (w *FactsWriter) Run(ctx context.Context) error {
	pause := minRetry
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		}
		if err := w.write(ctx); err != nil && ctx.Err() == nil {
			w.logger.Warn("cannot publish this node's facts", "err", err, "retry", pause)
			time.AfterFunc(pause, w.poke)
			pause = min(2*pause, maxRetry)
			continue
		}
		pause = minRetry
	}
}

// write makes the Lease what it must be.
func (w *FactsWriter) write(ctx context.Context) error {
	w.mu.Lock()
	facts := w.facts
	w.mu.Unlock()
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
		return err
	}
	w.source.leases.wrote(have)
	w.source.notify()
	w.logger.Info("published this node's facts", "macs", want.Annotations[kube.AnnotationMACs],
		"ready", want.Annotations[kube.AnnotationSegments])
	return nil
}

// factsLease gives the Lease of a node's facts. It goes with the node.
func factsLease(node *corev1.Node, facts Facts) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: kube.Namespace, Name: node.Name,
			Labels: map[string]string{kube.LabelNodeFacts: "true"},
			Annotations: map[string]string{
				kube.AnnotationSegments: strings.Join(facts.Ready, ","),
				kube.AnnotationMACs:     kube.FormatMasterMACs(facts.MACs),
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
