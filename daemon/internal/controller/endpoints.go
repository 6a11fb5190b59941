// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// endpoint is one address of a pod behind a Service.
type endpoint struct {
	podAddr
	pod   *pod
	ports []discoveryv1.EndpointPort // as this pod resolves them
	left  bool                       // the Service does not select it any more
	// said are the conditions that a user wrote; nil: those of the pod.
	said *discoveryv1.EndpointConditions
}

// slicer makes the EndpointSlices of one Service.
type slicer struct {
	kube.Request
	served   []poolOf       // the pools that it has a VIP from
	networks []kube.Network // of the Service, whether or not it has a VIP there
	pods     podSet
}

// slices gives a set of slices for each pool, near to those that exist. A pod is an endpoint for the families that it
// has. One that is not selected any more stays as one that does not serve: its connections live on, as they do behind a
// ClusterIP, and nodes must know where they go. Without a selector, the endpoints are those that somebody wrote.
func (s slicer) slices(own, written []*discoveryv1.EndpointSlice) ([]*discoveryv1.EndpointSlice, []lb.Issue) {
	var issues []lb.Issue
	var selected []endpoint
	var mirrored map[poolOf][]endpoint
	if len(s.Service.Spec.Selector) > 0 {
		selected, issues = selectPods(s.Request, s.pods)
	} else {
		mirrored, issues = s.mirror(written)
	}
	var out []*discoveryv1.EndpointSlice
	for _, from := range s.served {
		there := slices.DeleteFunc(slices.Clone(own), func(slice *discoveryv1.EndpointSlice) bool {
			return slice.Annotations[kube.AnnotationNetwork] != from.network || slice.AddressType != addressType(from.family)
		})
		endpoints := mirrored[from]
		if len(s.Service.Spec.Selector) > 0 {
			endpoints = ofPool(slices.Concat(selected, unselected(s.Request, selected, s.pods, there)), from)
		} else {
			endpoints = append(endpoints, s.unwritten(from, endpoints, there)...)
		}
		slices.SortFunc(endpoints, func(x, y endpoint) int {
			return cmp.Or(x.addr.Compare(y.addr), cmp.Compare(portsKey(x.ports), portsKey(y.ports)))
		})
		out = append(out, pack(s.Service, from, endpoints, there)...)
	}
	return out, issues
}

// ofPool gives an endpoint for each address that pods have in a pool's network and family.
func ofPool(pods []endpoint, from poolOf) []endpoint {
	var out []endpoint
	for _, e := range pods {
		for _, a := range e.pod.addrs[from] {
			e.podAddr = a
			out = append(out, e)
		}
	}
	return out
}

// selectPods gives the pods that a Service selects and that offer at least one of its ports, with their ports resolved.
func selectPods(r kube.Request, pods podSet) (selected []endpoint, issues []lb.Issue) {
	unresolved := map[string]bool{}
	for _, p := range pods.matching(r.Service.Namespace, r.Service.Spec.Selector) {
		ports, missing := resolvePorts(r.Service.Spec.Ports, p.Pod)
		for _, name := range missing {
			if unresolved[name] {
				continue
			}
			unresolved[name] = true
			issues = append(issues, lb.Issue{Object: r.Object(), Reason: ReasonUnresolvedPort, Message: fmt.Sprintf(
				"spec.ports: targetPort %q is no container port of Pod %s: name the port there, or write a number",
				name, p.name())})
		}
		if len(ports) > 0 {
			selected = append(selected, endpoint{pod: p, ports: ports})
		}
	}
	return selected, issues
}

// unselected gives the pods of slices that the Service does not select any more, as long as they exist.
func unselected(r kube.Request, selected []endpoint, pods podSet, there []*discoveryv1.EndpointSlice) []endpoint {
	seen := map[*pod]bool{}
	for _, s := range selected {
		seen[s.pod] = true
	}
	var out []endpoint
	for _, slice := range there {
		for _, e := range slice.Endpoints {
			if e.TargetRef == nil {
				continue
			}
			p := pods.named[e.TargetRef.Namespace+"/"+e.TargetRef.Name]
			if p == nil || p.UID != e.TargetRef.UID || seen[p] {
				continue
			}
			seen[p] = true
			if ports, _ := resolvePorts(r.Service.Spec.Ports, p.Pod); len(ports) > 0 {
				out = append(out, endpoint{pod: p, ports: ports, left: true})
			}
		}
	}
	return out
}

// resolvePorts gives the pod's port for each port of the Service that is balanced, sorted by name.
func resolvePorts(servicePorts []corev1.ServicePort, p *corev1.Pod) (
	ports []discoveryv1.EndpointPort, missing []string,
) {
	for _, servicePort := range servicePorts {
		proto := cmp.Or(servicePort.Protocol, corev1.ProtocolTCP)
		if proto != corev1.ProtocolTCP && proto != corev1.ProtocolUDP {
			continue
		}
		number, ok := resolvePort(servicePort, proto, p)
		if !ok {
			missing = append(missing, servicePort.TargetPort.StrVal)
			continue
		}
		name := servicePort.Name
		ports = append(ports, discoveryv1.EndpointPort{Name: &name, Protocol: &proto, Port: &number})
	}
	slices.SortFunc(ports, func(a, b discoveryv1.EndpointPort) int { return cmp.Compare(*a.Name, *b.Name) })
	return ports, missing
}

// resolvePort gives a target port's number: by name it is found among the ports of the containers, sidecars included.
func resolvePort(port corev1.ServicePort, proto corev1.Protocol, p *corev1.Pod) (int32, bool) {
	target := port.TargetPort
	if target.Type == intstr.Int || target.StrVal == "" {
		number := cmp.Or(target.IntVal, port.Port) // unset means the Service's own port
		return number, number >= 1 && number <= 65535
	}
	containers := slices.Clone(p.Spec.Containers)
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	for _, c := range containers {
		for _, containerPort := range c.Ports {
			if containerPort.Name == target.StrVal && cmp.Or(containerPort.Protocol, corev1.ProtocolTCP) == proto {
				return containerPort.ContainerPort, true
			}
		}
	}
	return 0, false
}

// portsKey is equal for equal ports.
func portsKey(ports []discoveryv1.EndpointPort) string {
	var b strings.Builder
	for _, p := range ports {
		if p.Name != nil && p.Protocol != nil && p.Port != nil {
			fmt.Fprintf(&b, "%s/%s/%d,", *p.Name, *p.Protocol, *p.Port)
		}
	}
	return b.String()
}

// api converts the endpoint. The conditions mean what Kubernetes' own EndpointSlices say.
func (e endpoint) api(svc *corev1.Service) discoveryv1.Endpoint {
	serving := slices.ContainsFunc(e.pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
	terminating := e.pod.DeletionTimestamp != nil
	if e.said != nil { // unset means true, true and false (discovery/v1, EndpointConditions)
		serving = ptr.Deref(e.said.Serving, ptr.Deref(e.said.Ready, true))
		terminating = terminating || ptr.Deref(e.said.Terminating, false)
	}
	serving = serving && !e.left
	ready := serving && !terminating || svc.Spec.PublishNotReadyAddresses && !e.left
	if e.said != nil {
		ready = ready && ptr.Deref(e.said.Ready, true)
	}
	node := e.pod.Spec.NodeName
	var zone *string
	if e.pod.zone != "" {
		zone = &e.pod.zone
	}
	return discoveryv1.Endpoint{
		Addresses:  []string{e.addr.String()},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		NodeName:   &node,
		Zone:       zone,
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: e.pod.Namespace, Name: e.pod.Name, UID: e.pod.UID},
	}
}
