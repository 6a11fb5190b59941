// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// mirror gives the endpoints that somebody wrote for a Service without a selector, by the pool that they belong to: those
// whose address a pod has on one of the Service's networks. What else the slices hold it names.
func (s slicer) mirror(written []*discoveryv1.EndpointSlice) (map[poolOf][]endpoint, []lb.Issue) {
	out := map[poolOf][]endpoint{}
	if len(s.served) == 0 {
		return out, nil // what is missing is said elsewhere
	}
	var issues []lb.Issue
	for _, slice := range written {
		refuse := func(reason, format string, args ...any) {
			issues = append(issues, lb.Issue{Object: s.Object(), Reason: reason, Message: fmt.Sprintf(
				"EndpointSlice %s: "+format, append([]any{slice.Name}, args...)...)})
		}
		networks, why := s.networksOf(slice)
		ports := s.portsOf(slice)
		if why == "" && len(ports) == 0 {
			why = "none of its ports has the name and the protocol of one of the Service's, and a number: correct \"ports\""
		}
		if why != "" {
			refuse(ReasonSlicePassedOver, "%s", why)
			continue
		}
		unknown := s.mirrorSlice(slice, networks, ports, out)
		if len(unknown) > 0 {
			refuse(ReasonEndpointNotAttached, "no pod has %s on a network of the Service: correct the address; to others than pods "+
				"packets need forwarding \"snat\", which this version lacks", shorten(unknown))
		}
	}
	return out, issues
}

// networksOf gives the networks that a slice may be about, or why it is passed over.
func (s slicer) networksOf(slice *discoveryv1.EndpointSlice) (networks []kube.Network, why string) {
	family := corev1.IPFamily(slice.AddressType)
	if !slices.Contains(s.Families, family) {
		return nil, fmt.Sprintf("its addressType is %s, of which the Service has no VIP: ask for one by annotation %s",
			family, kube.AnnotationIPFamilies)
	}
	text, named := slice.Annotations[kube.AnnotationNetwork]
	if !named {
		return s.networks, ""
	}
	names, _ := kube.ParseNetworks(text, slice.Namespace)
	if len(names) != 1 || !slices.Contains(s.Networks, names[0]) {
		return nil, fmt.Sprintf("its annotation %s: %q is no network of the Service: name one of %s, or remove the annotation",
			kube.AnnotationNetwork, text, strings.Join(s.Networks, ", "))
	}
	return slices.DeleteFunc(slices.Clone(s.networks), func(n kube.Network) bool { return n.Name != names[0] }), ""
}

// portsOf gives the ports that a slice gives the Service's, sorted by name. Names join the two, as everywhere in Kubernetes.
func (s slicer) portsOf(slice *discoveryv1.EndpointSlice) []discoveryv1.EndpointPort {
	var ports []discoveryv1.EndpointPort
	for _, servicePort := range s.Service.Spec.Ports {
		proto := cmp.Or(servicePort.Protocol, corev1.ProtocolTCP)
		if proto != corev1.ProtocolTCP && proto != corev1.ProtocolUDP {
			continue
		}
		for _, port := range slice.Ports {
			if ptr.Deref(port.Name, "") == servicePort.Name && ptr.Deref(port.Protocol, corev1.ProtocolTCP) == proto && port.Port != nil {
				ports = append(ports, discoveryv1.EndpointPort{Name: &servicePort.Name, Protocol: &proto, Port: port.Port})
				break
			}
		}
	}
	slices.SortFunc(ports, func(a, b discoveryv1.EndpointPort) int { return cmp.Compare(*a.Name, *b.Name) })
	return ports
}

// mirrorSlice adds the endpoints of one slice to out, and gives the addresses that no pod has.
func (s slicer) mirrorSlice(
	slice *discoveryv1.EndpointSlice, networks []kube.Network, ports []discoveryv1.EndpointPort, out map[poolOf][]endpoint,
) (unknown []string) {
	for _, e := range slice.Endpoints {
		if len(e.Addresses) == 0 {
			continue // which the API refuses
		}
		// Consumers take the first address alone (discovery/v1, Endpoint).
		addr, err := netip.ParseAddr(e.Addresses[0])
		found := false
		for _, network := range networks {
			at := placeOf(network, addr)
			p := s.pods.at[at]
			if err != nil || p == nil {
				continue
			}
			found = true
			from := poolOf{network.Name, kube.FamilyOf(addr)}
			again := slices.ContainsFunc(out[from], func(o endpoint) bool {
				return o.addr == addr && portsKey(o.ports) == portsKey(ports)
			})
			if !again {
				out[from] = append(out[from], endpoint{
					podAddr: podAddr{addr, s.pods.macs[at]}, pod: p, ports: ports, said: &e.Conditions,
				})
			}
		}
		if !found {
			unknown = append(unknown, e.Addresses[0])
		}
	}
	return unknown
}

// unwritten gives the endpoints of slices of ours that nobody writes any more, as long as their pods have their addresses.
func (s slicer) unwritten(from poolOf, written []endpoint, there []*discoveryv1.EndpointSlice) []endpoint {
	var segment string
	for _, network := range s.networks {
		if network.Name == from.network {
			segment = network.Segment
		}
	}
	still := map[netip.Addr]bool{}
	for _, e := range written {
		still[e.addr] = true
	}
	var out []endpoint
	for _, slice := range there {
		for _, e := range slice.Endpoints {
			if len(e.Addresses) == 0 {
				continue
			}
			addr, err := netip.ParseAddr(e.Addresses[0])
			at := kube.Place{Segment: segment, Addr: addr}
			p := s.pods.at[at]
			if err != nil || still[addr] || p == nil || e.TargetRef == nil || e.TargetRef.UID != p.UID {
				continue
			}
			still[addr] = true
			out = append(out, endpoint{podAddr: podAddr{addr, s.pods.macs[at]}, pod: p, ports: slice.Ports, left: true})
		}
	}
	return out
}

// shorten names a few of many.
func shorten(words []string) string {
	const most = 5
	if len(words) <= most {
		return strings.Join(words, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(words[:most], ", "), len(words)-most)
}
