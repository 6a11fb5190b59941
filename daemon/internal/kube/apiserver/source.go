// SPDX-License-Identifier: Apache-2.0

// Package apiserver owns the talk with a Kubernetes API server: it watches the objects that an agent or a controller needs,
// stores what the controller writes, publishes a node's facts, and records events. It must not judge what the objects mean;
// package kube does.
//
// Its counterpart without an API server is package manifest. Both give kube.Objects, so everything behind them is the same.
package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// reconcilePeriod is how often writes are looked for that the watch never showed.
const reconcilePeriod = 10 * time.Second

// Role says what a Source watches.
type Role int

const (
	// Agent watches what a node balances: Services of type LoadBalancer, NetworkAttachmentDefinitions, our EndpointSlices, the
	// claims of VIPs, the facts of nodes, and the nodes. Never Pods.
	Agent Role = iota
	// Controller watches what VIPs and EndpointSlices follow from: Services, NetworkAttachmentDefinitions, Pods, Nodes, those
	// EndpointSlices that Kubernetes does not make itself, and the claims.
	Controller
)

// Source is what an API server knows. Its methods may be called at the same time.
type Source struct {
	logger *slog.Logger
	notify func()
	role   Role

	services *table[*corev1.Service]
	pods     *table[*corev1.Pod]
	nodes    *table[*corev1.Node]
	networks *table[*nadv1.NetworkAttachmentDefinition]
	slices   *table[*discoveryv1.EndpointSlice]
	leases   *table[*coordinationv1.Lease]

	watches []watched
}

// watched is one kind that is watched, or a part of it.
type watched struct {
	kind      string
	informer  cache.SharedIndexInformer
	handled   cache.ResourceEventHandlerRegistration
	reconcile func(time.Time) bool // the whole table that the watch feeds
	refused   *atomic.Bool         // the last attempt, which is logged once
}

// NewSource makes a Source for a role. While it runs, it calls notify after each change of Objects that did not come through
// the Store; notify must not block.
func NewSource(c *Client, role Role, logger *slog.Logger, notify func()) (*Source, error) {
	s := newTables()
	s.logger, s.notify, s.role = logger, notify, role
	all := metav1.NamespaceAll
	balanced := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.type", string(corev1.ServiceTypeLoadBalancer)).String()}
	slices := metav1.ListOptions{LabelSelector: labels.Set{kube.LabelManagedBy: kube.Domain}.String()}
	leases := []string{kube.LabelClaim, kube.LabelNodeFacts} // a watch for each: a selector knows no "or". No Lease has both
	if role == Controller {
		balanced = metav1.ListOptions{} // what was balanced once and is not any more has to be cleaned up
		slices.LabelSelector = kube.LabelManagedBy + "!=" + kube.ManagedByKubernetes
		leases = []string{kube.LabelClaim}
	}
	errs := []error{
		add(s, "Service", &corev1.Service{}, s.services, c.kube.CoreV1().Services(all), balanced),
		add(s, "NetworkAttachmentDefinition", &nadv1.NetworkAttachmentDefinition{}, s.networks,
			c.nads.K8sCniCncfIoV1().NetworkAttachmentDefinitions(all), metav1.ListOptions{}),
		add(s, "EndpointSlice", &discoveryv1.EndpointSlice{}, s.slices, c.kube.DiscoveryV1().EndpointSlices(all), slices),
		add(s, "Node", &corev1.Node{}, s.nodes, c.kube.CoreV1().Nodes(), metav1.ListOptions{}),
	}
	for _, label := range leases {
		errs = append(errs, add(s, "Lease", &coordinationv1.Lease{}, s.leases, c.kube.CoordinationV1().Leases(kube.Namespace),
			metav1.ListOptions{LabelSelector: label + "=true"}))
	}
	if role == Controller {
		errs = append(errs, add(s, "Pod", &corev1.Pod{}, s.pods, c.kube.CoreV1().Pods(all), metav1.ListOptions{}))
	}
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// newTables makes a Source that knows nothing.
func newTables() *Source {
	return &Source{
		services: newTable[*corev1.Service](), pods: newTable[*corev1.Pod](), nodes: newTable[*corev1.Node](),
		networks: newTable[*nadv1.NetworkAttachmentDefinition](), slices: newTable[*discoveryv1.EndpointSlice](),
		leases: newTable[*coordinationv1.Lease](),
	}
}

// lister is what the typed clients have in common.
type lister[L runtime.Object] interface {
	List(ctx context.Context, options metav1.ListOptions) (L, error)
	Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
}

// add watches what is selected of one kind into its table. Several watches of a table must select different objects.
func add[T kube.Object, L runtime.Object](
	s *Source, kind string, example T, t *table[T], client lister[L], selection metav1.ListOptions,
) error {
	narrow := func(options metav1.ListOptions) metav1.ListOptions {
		options.FieldSelector, options.LabelSelector = selection.FieldSelector, selection.LabelSelector
		return options
	}
	w := watched{kind: kind, refused: &atomic.Bool{}, reconcile: t.reconcile}
	explain := func(err error) { s.explain(w, err) }
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return untilAnswered(ctx, func() (runtime.Object, error) { return client.List(ctx, narrow(options)) }, explain)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			started, err := untilAnswered(ctx, func() (watch.Interface, error) { return client.Watch(ctx, narrow(options)) }, explain)
			if err == nil && w.refused.Swap(false) {
				s.logger.Info("watching again", "kind", kind)
			}
			return started, err
		},
	}, client)
	w.informer = cache.NewSharedIndexInformerWithOptions(lw, example, cache.SharedIndexInformerOptions{ObjectDescription: kind})
	saw := func(object any) {
		if t.saw(object.(T)) {
			s.notify()
		}
	}
	var err error
	w.handled, err = w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    saw,
		UpdateFunc: func(_, object any) { saw(object) },
		DeleteFunc: func(object any) {
			if missed, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = missed.Obj
			}
			if t.sawEnd(object.(T)) {
				s.notify()
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch %s: %w", kind, err)
	}
	if err := w.informer.SetTransform(s.role.reduce); err != nil {
		return fmt.Errorf("watch %s: %w", kind, err)
	}
	if err := w.informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		explain(err)
	}); err != nil {
		return fmt.Errorf("watch %s: %w", kind, err)
	}
	t.watched = append(t.watched, w.informer.GetStore())
	s.watches = append(s.watches, w)
	return nil
}

// explain logs why a kind cannot be watched, once until it can again.
func (s *Source) explain(w watched, err error) {
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || w.refused.Swap(true) {
		return // the list begins anew, as it should; or it was said
	}
	remedy := "what was known before stays in force"
	switch {
	case apierrors.IsNotFound(err) && w.kind == "NetworkAttachmentDefinition":
		remedy = "the CustomResourceDefinition of Multus is missing: install Multus"
	case apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
		remedy = "grant it: apply the roles of deploy/ again"
	}
	s.logger.Warn("cannot watch", "kind", w.kind, "err", err, "remedy", remedy)
}

// Run watches until ctx ends, and then returns nil. It must be called once.
func (s *Source) Run(ctx context.Context) error {
	for _, w := range s.watches {
		go w.informer.RunWithContext(ctx)
	}
	ticker := time.NewTicker(reconcilePeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			for _, w := range s.watches {
				if w.reconcile(now) {
					s.notify()
				}
			}
		}
	}
}

// WaitForSync waits until Objects holds all that there was when Run began, or ctx ends. Until then Objects is incomplete, and
// nobody may conclude from it that something is gone.
func (s *Source) WaitForSync(ctx context.Context) error {
	for _, w := range s.watches {
		if !cache.WaitForCacheSync(ctx.Done(), w.handled.HasSynced) {
			return fmt.Errorf("wait for every %s of the API server: %w", w.kind, context.Cause(ctx))
		}
	}
	return nil
}

// Objects gives what is known now, the Store's last write included.
func (s *Source) Objects() kube.Objects {
	return kube.Objects{
		Services: s.services.list(), Pods: s.pods.list(), Networks: s.networks.list(), Slices: s.slices.list(),
		Leases: s.leases.list(), Nodes: s.nodes.list(),
	}
}
