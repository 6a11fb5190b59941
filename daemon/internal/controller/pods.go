// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

// pod is a Pod that can be an endpoint.
type pod struct {
	*corev1.Pod
	zone  string               // of its node; empty if that has none
	addrs map[poolOf][]podAddr // by network and family, in the order of the pod's interfaces
}

type podAddr struct {
	addr netip.Addr
	mac  ether.MAC
}

func (p *pod) name() string { return p.Namespace + "/" + p.Name }

// podSet is every Pod that can be an endpoint.
type podSet struct {
	labelled map[label][]*pod
	at       map[kube.Place]*pod      // who has an address
	macs     map[kube.Place]ether.MAC // by which
	named    map[string]*pod          // by namespace/name
}

// label is one label of the pods of a namespace.
type label struct {
	namespace, key, value string
}

// matching gives the pods that have all labels of a selector. An empty selector selects nothing.
func (s podSet) matching(namespace string, selector map[string]string) []*pod {
	var fewest []*pod
	first := true
	for key, value := range selector {
		if having := s.labelled[label{namespace, key, value}]; first || len(having) < len(fewest) {
			fewest, first = having, false
		}
	}
	return slices.DeleteFunc(slices.Clone(fewest), func(p *pod) bool {
		for key, value := range selector {
			if has, ok := p.Labels[key]; !ok || has != value {
				return true
			}
		}
		return false
	})
}

// readPods reads the Pods' attachments to our networks. A Pod that is not attached yet is no endpoint yet; of two Pods
// with one address on a segment, only the first has it. A Pod that terminates gives way to one that does not, because
// its address may be given away already; apart from that the older has it.
func readPods(pods []*corev1.Pod, nodes []*corev1.Node, networks []kube.Network) (podSet, []lb.Issue) {
	zones := map[string]string{}
	for _, node := range nodes {
		zones[node.Name] = node.Labels[corev1.LabelTopologyZone]
	}
	segments := map[string]string{}
	for _, network := range networks {
		segments[network.Name] = network.Segment
	}
	sorted := slices.DeleteFunc(slices.Clone(pods), func(p *corev1.Pod) bool {
		return p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int {
		return cmp.Or(
			cmp.Compare(gone(a), gone(b)),
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
		)
	})
	set := podSet{
		labelled: map[label][]*pod{}, at: map[kube.Place]*pod{}, macs: map[kube.Place]ether.MAC{},
		named: map[string]*pod{},
	}
	var issues []lb.Issue
	for _, p := range sorted {
		attached, found := set.add(p, segments)
		issues = append(issues, found...)
		if len(attached.addrs) == 0 {
			continue
		}
		attached.zone = zones[p.Spec.NodeName]
		set.named[attached.name()] = attached
		for key, value := range p.Labels {
			at := label{p.Namespace, key, value}
			set.labelled[at] = append(set.labelled[at], attached)
		}
	}
	return set, issues
}

func gone(p *corev1.Pod) int {
	if p.DeletionTimestamp != nil {
		return 1
	}
	return 0
}

// add reads one Pod. Each of its interfaces on a network counts with its first address of each family.
func (s podSet) add(p *corev1.Pod, segments map[string]string) (*pod, []lb.Issue) {
	out := &pod{Pod: p, addrs: map[poolOf][]podAddr{}}
	var issues []lb.Issue
	refuse := func(reason, format string, args ...any) {
		issues = append(issues, lb.Issue{Object: "Pod " + out.name(), Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
	attachments, err := kube.ParseNetworkStatus(p.Annotations[nadv1.NetworkStatusAnnot])
	if err != nil {
		refuse(ReasonInvalidNetworkStatus, "%v: the pod is no endpoint: let Multus write it", err)
		return out, issues
	}
	for _, attachment := range attachments {
		segment, ours := segments[attachment.Network]
		addrs := firstOfEach(attachment.Addrs)
		switch {
		case !ours || len(addrs) == 0:
			continue
		case p.Spec.NodeName == "":
			refuse(ReasonNoNode, "spec.nodeName is empty, although the pod is attached to %s: set it", attachment.Network)
			continue
		case attachment.MAC.IsZero():
			refuse(ReasonNoMAC, "annotation %s: %s on %s has no MAC, and cannot be reached without: let Multus write it",
				nadv1.NetworkStatusAnnot, addrs[0], attachment.Network)
			continue
		}
		for _, addr := range addrs {
			at := kube.Place{Segment: segment, Addr: addr}
			switch first := s.at[at]; {
			case first == out: // one interface that is listed twice, or two with one address: one endpoint
			case first != nil && gone(p) == 1: // its address is given on before it is gone, as it should be
			case first != nil:
				refuse(ReasonDuplicateAddress, "%s on segment %s is the address of Pod %s too, and not used here: give each "+
					"pod its own (host-local allocates per node; use whereabouts, or a range per node)", addr, segment, first.name())
			default:
				s.at[at], s.macs[at] = out, attachment.MAC
				on := poolOf{attachment.Network, kube.FamilyOf(addr)}
				out.addrs[on] = append(out.addrs[on], podAddr{addr, attachment.MAC})
			}
		}
	}
	return out, issues
}

// firstOfEach gives the first address of each family. Link-local ones do not count: no other link could reach them, and
// every pod may have one.
func firstOfEach(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, addr := range addrs {
		same := func(other netip.Addr) bool { return kube.FamilyOf(other) == kube.FamilyOf(addr) }
		if !addr.IsLinkLocalUnicast() && !slices.ContainsFunc(out, same) {
			out = append(out, addr)
		}
	}
	return out
}
