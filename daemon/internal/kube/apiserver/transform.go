// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"maps"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// reduce drops what nobody in a role reads, before it is kept: memory follows what is load-balanced. An agent only reads; a
// controller writes back Services and EndpointSlices, so there they stay whole.
func (r Role) reduce(object any) (any, error) {
	switch object := object.(type) {
	case *corev1.Pod:
		return reducePod(object), nil
	case *corev1.Node:
		return reduceNode(object), nil
	}
	accessor, err := meta.Accessor(object)
	if err != nil {
		return object, nil // no object of the API: the end of one that the watch missed
	}
	accessor.SetManagedFields(nil)
	if r != Agent {
		return object, nil
	}
	switch object := object.(type) {
	case *corev1.Service:
		reduceService(object)
	case *discoveryv1.EndpointSlice:
		reduceSlice(object)
	}
	return object, nil
}

// reduceService drops what is for those who write and for people. The rest may matter to somebody who reads a Service.
func reduceService(svc *corev1.Service) {
	delete(svc.Annotations, corev1.LastAppliedConfigAnnotation)
	svc.Labels, svc.OwnerReferences, svc.Finalizers = nil, nil, nil
	svc.Spec.Selector = nil
	svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "", nil
	svc.Status.Conditions = nil
	for i := range svc.Status.LoadBalancer.Ingress {
		svc.Status.LoadBalancer.Ingress[i].Ports = nil
	}
}

// reduceSlice drops what nodes do not ask of endpoints.
func reduceSlice(slice *discoveryv1.EndpointSlice) {
	slice.OwnerReferences = nil
	delete(slice.Labels, kube.LabelProxyName)
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		e.Hostname, e.Zone, e.Hints, e.DeprecatedTopology = nil, nil, nil, nil
	}
}

// reduceMeta keeps what names an object. Its version is dropped: those who compare such objects compare what is kept of them.
func reduceMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp, Labels: m.Labels,
	}
}

// reducePod keeps what makes endpoints: labels, networks, readiness and named ports.
func reducePod(pod *corev1.Pod) *corev1.Pod {
	out := &corev1.Pod{TypeMeta: pod.TypeMeta, ObjectMeta: reduceMeta(pod.ObjectMeta)}
	out.Annotations = maps.Clone(pod.Annotations)
	maps.DeleteFunc(out.Annotations, func(key, _ string) bool {
		return key != nadv1.NetworkStatusAnnot && key != nadv1.NetworkAttachmentAnnot
	})
	out.Spec = corev1.PodSpec{NodeName: pod.Spec.NodeName, HostNetwork: pod.Spec.HostNetwork, Hostname: pod.Spec.Hostname}
	out.Spec.Containers = reduceContainers(pod.Spec.Containers)
	out.Spec.InitContainers = reduceContainers(pod.Spec.InitContainers) // sidecars are among them
	out.Status = corev1.PodStatus{Phase: pod.Status.Phase, PodIP: pod.Status.PodIP, PodIPs: pod.Status.PodIPs}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			out.Status.Conditions = []corev1.PodCondition{{
				Type: condition.Type, Status: condition.Status, LastTransitionTime: condition.LastTransitionTime,
			}}
		}
	}
	return out
}

func reduceContainers(containers []corev1.Container) []corev1.Container {
	var out []corev1.Container
	for _, c := range containers {
		if len(c.Ports) > 0 {
			out = append(out, corev1.Container{Name: c.Name, Ports: c.Ports, RestartPolicy: c.RestartPolicy})
		}
	}
	return out
}

// reduceNode keeps labels and readiness.
func reduceNode(node *corev1.Node) *corev1.Node {
	out := &corev1.Node{TypeMeta: node.TypeMeta, ObjectMeta: reduceMeta(node.ObjectMeta)}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			out.Status.Conditions = []corev1.NodeCondition{{
				Type: condition.Type, Status: condition.Status, LastTransitionTime: condition.LastTransitionTime,
			}}
		}
	}
	return out
}
