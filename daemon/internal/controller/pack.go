// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/internal/ether"
)

// maxEndpoints is the size of a slice, as in Kubernetes: large enough to be few, small enough to be rewritten.
const maxEndpoints = 100

// bin is a slice in the making.
type bin struct {
	name      string // empty if it needs one
	endpoints []endpoint
}

// pack cuts endpoints into as few slices as can be. Endpoints that resolve the ports differently need slices of their
// own. An endpoint stays in the slice that it is in, so that one that comes or goes rewrites one slice; slices whose
// ports no endpoint has any more are rewritten for others before new ones are made.
func pack(
	svc *corev1.Service, from poolOf, endpoints []endpoint, existing []*discoveryv1.EndpointSlice,
) []*discoveryv1.EndpointSlice {
	groups := map[string][]endpoint{}
	for _, e := range endpoints {
		key := portsKey(e.ports)
		groups[key] = append(groups[key], e)
	}
	used := map[string]bool{}
	var bins []bin
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		var mine []*discoveryv1.EndpointSlice
		for _, slice := range existing {
			if portsKey(slice.Ports) == key {
				mine = append(mine, slice)
			}
		}
		packed := packGroup(groups[key], mine)
		for _, b := range packed {
			used[b.name] = true
		}
		bins = append(bins, packed...)
	}
	names := freeNames(svc.Name, from, existing, used)
	out := make([]*discoveryv1.EndpointSlice, 0, len(bins))
	for _, b := range bins {
		if b.name == "" {
			b.name = names()
		}
		out = append(out, b.slice(svc, from))
	}
	return out
}

// packGroup fills as many bins as the endpoints need: first the existing slices that hold most of them.
func packGroup(endpoints []endpoint, existing []*discoveryv1.EndpointSlice) []bin {
	at := map[string]int{} // address → slice that holds it
	for i, slice := range existing {
		for _, e := range slice.Endpoints {
			if len(e.Addresses) > 0 {
				at[e.Addresses[0]] = i
			}
		}
	}
	bins := make([]bin, len(existing))
	for i, slice := range existing {
		bins[i].name = slice.Name
	}
	var loose []endpoint
	for _, e := range endpoints {
		i, ok := at[e.addr.String()]
		if !ok || len(bins[i].endpoints) == maxEndpoints {
			loose = append(loose, e)
			continue
		}
		bins[i].endpoints = append(bins[i].endpoints, e)
	}
	slices.SortStableFunc(bins, func(a, b bin) int { return cmp.Compare(len(b.endpoints), len(a.endpoints)) })
	need := (len(endpoints) + maxEndpoints - 1) / maxEndpoints
	for len(bins) > need {
		loose = append(loose, bins[len(bins)-1].endpoints...)
		bins = bins[:len(bins)-1]
	}
	for len(bins) < need {
		bins = append(bins, bin{})
	}
	for i := range bins {
		room := min(maxEndpoints-len(bins[i].endpoints), len(loose))
		bins[i].endpoints = append(bins[i].endpoints, loose[:room]...)
		loose = loose[room:]
	}
	return bins
}

// freeNames yields names for new slices: those of existing slices that are not used any more, then new ones.
func freeNames(service string, from poolOf, existing []*discoveryv1.EndpointSlice, used map[string]bool) func() string {
	var unused []string
	for _, slice := range existing {
		if !used[slice.Name] {
			unused = append(unused, slice.Name)
		}
	}
	hash := shortHash(from.network)
	if from.family == corev1.IPv6Protocol {
		hash = shortHash(from.network + " " + string(from.family))
	}
	next := 0
	return func() string {
		if len(unused) > 0 {
			name := unused[0]
			unused = unused[1:]
			used[name] = true
			return name
		}
		for {
			name := fmt.Sprintf("%s-%s-%d", service, hash, next)
			next++
			if !used[name] {
				used[name] = true
				return name
			}
		}
	}
}

// addressType is a family, as slices name it. It cannot change in a slice that exists.
func addressType(family corev1.IPFamily) discoveryv1.AddressType {
	return discoveryv1.AddressType(family)
}

func (b bin) slice(svc *corev1.Service, from poolOf) *discoveryv1.EndpointSlice {
	slices.SortFunc(b.endpoints, func(x, y endpoint) int { return x.addr.Compare(y.addr) })
	macs := make(map[netip.Addr]ether.MAC, len(b.endpoints))
	out := &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace,
			Name:      b.name,
			Labels: map[string]string{
				kube.LabelManagedBy:   kube.Domain,
				kube.LabelProxyName:   kube.Domain,
				kube.LabelServiceName: svc.Name,
			},
		},
		AddressType: addressType(from.family),
		Ports:       b.endpoints[0].ports,
	}
	if svc.UID != "" { // files have none, and nothing that collects garbage
		kind := corev1.SchemeGroupVersion.WithKind("Service")
		out.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(svc, kind)}
	}
	for _, e := range b.endpoints {
		macs[e.addr] = e.mac
		out.Endpoints = append(out.Endpoints, e.api(svc))
	}
	out.Annotations = map[string]string{kube.AnnotationNetwork: from.network, kube.AnnotationMACs: kube.FormatMACs(macs)}
	return out
}

// shortHash gives eight hexadecimal digits.
func shortHash(text string) string {
	h := fnv.New32a()
	h.Write([]byte(text))
	return fmt.Sprintf("%08x", h.Sum32())
}
