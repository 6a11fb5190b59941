// SPDX-License-Identifier: Apache-2.0

// Package kube owns the reading of Kubernetes objects: the names of our annotations and labels, what they and the API's
// own fields mean, and their conversion to the plain values of package lb. It must not fetch, watch or write objects,
// and it must not change the objects that it is given.
package kube

import (
	"cmp"
	"slices"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// Object is one object of the API.
type Object interface {
	runtime.Object
	metav1.Object
}

// Objects is what a source of objects knows at one moment. It is immutable: nobody changes it, its slices or the
// objects in them once it is published. Each slice is sorted by namespace and name, and holds a name once.
type Objects struct {
	Services []*corev1.Service
	Pods     []*corev1.Pod
	Networks []*nadv1.NetworkAttachmentDefinition
	Slices   []*discoveryv1.EndpointSlice
	Leases   []*coordinationv1.Lease
	// Nodes tell where endpoints are and which nodes may own VIPs. A source without an API server need not have them.
	Nodes []*corev1.Node

	// Orphans are Services that are gone although what the controller wrote on them is still stored. Only a source that
	// keeps the two apart has any.
	Orphans []types.NamespacedName
	// Issues is what the source could not read or use.
	Issues []lb.Issue
}

// Options says which objects are ours. The zero value means the defaults.
type Options struct {
	Classes            []string // values of spec.loadBalancerClass; default: Class
	NetworkAnnotations []string // annotations that list a Service's networks, united; default: AnnotationNetworks
}

func (o Options) classes() []string {
	if len(o.Classes) == 0 {
		return []string{Class}
	}
	return o.Classes
}

func (o Options) networkAnnotations() []string {
	if len(o.NetworkAnnotations) == 0 {
		return []string{AnnotationNetworks}
	}
	return o.NetworkAnnotations
}

// Sort brings every slice into the order that Objects promises.
func (o Objects) Sort() {
	slices.SortFunc(o.Services, byName[*corev1.Service])
	slices.SortFunc(o.Pods, byName[*corev1.Pod])
	slices.SortFunc(o.Networks, byName[*nadv1.NetworkAttachmentDefinition])
	slices.SortFunc(o.Slices, byName[*discoveryv1.EndpointSlice])
	slices.SortFunc(o.Leases, byName[*coordinationv1.Lease])
	slices.SortFunc(o.Nodes, byName[*corev1.Node])
	slices.SortFunc(o.Orphans, func(a, b types.NamespacedName) int { return cmp.Compare(a.String(), b.String()) })
	SortIssues(o.Issues)
}

func byName[T metav1.Object](a, b T) int {
	return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
}

// SortIssues sorts issues by object, reason and message.
func SortIssues(issues []lb.Issue) {
	slices.SortFunc(issues, func(a, b lb.Issue) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Message, b.Message))
	})
}

// Snapshot converts the objects to the part of a lb.Snapshot that they know: Services, Networks, Slices, Nodes and
// Issues. The caller adds what is known of its own node. A Service's VIPs are those of the claims that name it: what its
// status and annotations say of them is for people.
func (o Objects) Snapshot(opts Options) lb.Snapshot { return NewConverter(opts).Snapshot(o) }
