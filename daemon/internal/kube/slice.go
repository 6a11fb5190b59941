// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"fmt"
	"net/netip"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

// OwnSlice tells whether the controller of this project manages a slice.
func OwnSlice(slice *discoveryv1.EndpointSlice) bool { return slice.Labels[LabelManagedBy] == Domain }

// WrittenFor gives namespace/name of the Service without a selector that somebody wrote a slice for: a user, or a
// controller other than Kubernetes' own, which writes slices from selectors.
func WrittenFor(slice *discoveryv1.EndpointSlice) (service string, ok bool) {
	name, manager := slice.Labels[discoveryv1.LabelServiceName], slice.Labels[LabelManagedBy]
	if name == "" || manager == Domain || manager == ManagedByKubernetes {
		return "", false
	}
	return slice.Namespace + "/" + name, true
}

// SliceService gives namespace/name of the Service that one of our slices belongs to.
func SliceService(slice *discoveryv1.EndpointSlice) string {
	return slice.Namespace + "/" + slice.Labels[LabelServiceName]
}

// convertSlice converts a slice of ours. What it cannot read it leaves out, and says so.
func convertSlice(slice *discoveryv1.EndpointSlice) (_ *lb.Slice, issues []lb.Issue) {
	if !OwnSlice(slice) {
		return nil, nil
	}
	refuse := func(format string, args ...any) {
		issues = append(issues, lb.Issue{
			Object: "EndpointSlice " + slice.Namespace + "/" + slice.Name, Reason: ReasonInvalidSlice,
			Message: fmt.Sprintf(format, args...) + ": delete the slice, the controller writes it anew",
		})
	}
	out := &lb.Slice{Service: SliceService(slice), Network: slice.Annotations[AnnotationNetwork]}
	for i, port := range slice.Ports {
		if port.Port == nil || !validPort(*port.Port) || port.Protocol == nil {
			refuse("ports[%d] lacks a port or a protocol", i)
			continue
		}
		proto, ok := protocol(*port.Protocol)
		if !ok {
			refuse("ports[%d].protocol: %s is not balanced", i, *port.Protocol)
			continue
		}
		out.Ports = append(out.Ports, lb.ServicePort{Name: ptr.Deref(port.Name, ""), Protocol: proto, Port: uint16(*port.Port)})
	}
	macs, err := ParseMACs(slice.Annotations[AnnotationMACs])
	if err != nil {
		refuse("annotation %s: %v", AnnotationMACs, err)
	}
	out.Endpoints = make([]lb.Endpoint, 0, len(slice.Endpoints))
	for i, endpoint := range slice.Endpoints {
		if len(endpoint.Addresses) == 0 {
			refuse("endpoints[%d] has no address", i)
			continue
		}
		addr, err := netip.ParseAddr(endpoint.Addresses[0])
		if err != nil || addr.Is4In6() || addr.Zone() != "" || string(FamilyOf(addr)) != string(slice.AddressType) {
			refuse("endpoints[%d]: %q is no %s address", i, endpoint.Addresses[0], slice.AddressType)
			continue
		}
		mac, ok := macs[addr]
		if !ok {
			refuse("endpoints[%d]: annotation %s gives no MAC for %s", i, AnnotationMACs, addr)
			continue
		}
		out.Endpoints = append(out.Endpoints, convertEndpoint(endpoint, addr, mac))
	}
	return out, issues
}

func convertEndpoint(endpoint discoveryv1.Endpoint, addr netip.Addr, mac ether.MAC) lb.Endpoint {
	conditions := endpoint.Conditions
	out := lb.Endpoint{
		Addr: addr,
		MAC:  mac,
		Node: ptr.Deref(endpoint.NodeName, ""),
		// Ready without Serving is a pod that its Service publishes before it is ready.
		Serving:     ptr.Deref(conditions.Serving, true) || ptr.Deref(conditions.Ready, true),
		Terminating: ptr.Deref(conditions.Terminating, false),
	}
	if ref := endpoint.TargetRef; ref != nil {
		out.Pod = api.Pod{Namespace: ref.Namespace, Name: ref.Name, UID: string(ref.UID)}
	}
	return out
}

// ParseMACs reads AnnotationMACs. No text means no MACs.
func ParseMACs(text string) (map[netip.Addr]ether.MAC, error) {
	if text == "" {
		return nil, nil
	}
	var macs map[netip.Addr]ether.MAC
	if err := json.Unmarshal([]byte(text), &macs); err != nil {
		return nil, fmt.Errorf("read %q as a map from address to MAC: %w", text, err)
	}
	for addr, mac := range macs {
		if mac.IsZero() {
			delete(macs, addr)
		}
	}
	return macs, nil
}

// FormatMACs writes AnnotationMACs: what ParseMACs reads, sorted by the addresses' text.
func FormatMACs(macs map[netip.Addr]ether.MAC) string {
	text, err := json.Marshal(macs)
	if err != nil {
		panic(err) // addresses and MACs always have a text form
	}
	return string(text)
}
