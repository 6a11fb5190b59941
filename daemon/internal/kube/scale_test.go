// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/internal/ether"
)

// manyObjects gives Services of so many endpoints each on one network, spread over three nodes.
func manyObjects(services, endpoints int) kube.Objects {
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{}, Annotations: map[string]string{}}
	}
	nad := &nadv1.NetworkAttachmentDefinition{ObjectMeta: meta("default", "macvlan1")}
	nad.Spec.Config = `{"cniVersion": "1.0.0", "name": "macvlan1", "plugins": [
		{"type": "macvlan", "master": "eth1", "mode": "bridge"}, {"type": "sluice", "vips": ["10.200.0.0/16"]}]}`
	out := kube.Objects{Networks: []*nadv1.NetworkAttachmentDefinition{nad}}
	for i := range 3 {
		lease := &coordinationv1.Lease{ObjectMeta: meta(kube.Namespace, fmt.Sprintf("node-%d", i))}
		lease.Labels[kube.LabelNodeFacts] = "true"
		lease.Annotations[kube.AnnotationSegments] = "eth1"
		out.Leases = append(out.Leases, lease)
	}
	for i := range services {
		svc := &corev1.Service{ObjectMeta: meta("default", fmt.Sprintf("service-%05d", i))}
		svc.UID = types.UID(svc.Name)
		svc.Annotations[kube.AnnotationNetworks] = "macvlan1"
		out.Leases = append(out.Leases, kube.Claim{
			Place:   kube.Place{Segment: "eth1", Addr: netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)})},
			Sharers: []kube.Sharer{{Service: "default/" + svc.Name, Network: "default/macvlan1", Holder: string(svc.UID)}},
		}.Lease())
		svc.Spec.Type, svc.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, new(kube.Class)
		svc.Spec.Ports = []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}}
		out.Services = append(out.Services, svc)
		out.Slices = append(out.Slices, sliceOf(svc, i*endpoints, endpoints))
	}
	out.Sort()
	return out
}

// sliceOf gives a Service endpoints of pods with the numbers from first on.
func sliceOf(svc *corev1.Service, first, endpoints int) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	slice.Namespace, slice.Name = svc.Namespace, svc.Name+"-slice"
	slice.Labels = map[string]string{kube.LabelManagedBy: kube.Domain, kube.LabelServiceName: svc.Name}
	slice.Ports = []discoveryv1.EndpointPort{{Name: new(""), Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080))}}
	macs := map[netip.Addr]ether.MAC{}
	for n := first; n < first+endpoints; n++ {
		addr := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
		macs[addr] = ether.MAC{2, 1, 0, byte(n >> 16), byte(n >> 8), byte(n)}
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{addr.String()}, NodeName: new(fmt.Sprintf("node-%d", n%3)),
			Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
			TargetRef: &corev1.ObjectReference{
				Kind: "Pod", Namespace: "default", Name: fmt.Sprintf("pod-%d", n), UID: types.UID(fmt.Sprint(n)),
			},
		})
	}
	slice.Annotations = map[string]string{
		kube.AnnotationNetwork: "default/macvlan1", kube.AnnotationMACs: kube.FormatMACs(macs),
	}
	return slice
}

// BenchmarkSnapshot converts 5,000 Services of 10 endpoints each: at start, and again after one of them lost an endpoint.
func BenchmarkSnapshot(b *testing.B) {
	objects := manyObjects(5000, 10)
	b.Run("start", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			objects.Snapshot(kube.Options{})
		}
	})
	b.Run("change", func(b *testing.B) {
		b.ReportAllocs()
		c := kube.NewConverter(kube.Options{})
		c.Snapshot(objects)
		for n := 0; b.Loop(); n++ {
			objects.Slices = slices.Clone(objects.Slices)
			objects.Slices[0] = sliceOf(objects.Services[0], 0, 10-n%2)
			c.Snapshot(objects)
		}
	})
}
