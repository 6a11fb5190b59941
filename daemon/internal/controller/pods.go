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

// networkStatus is the annotation that Multus writes.
const networkStatus = nadv1.NetworkStatusAnnot

// podSet is every Pod that can be an endpoint.
type podSet struct {
	zones    map[string]string // of nodes
	segments map[string]string // of networks
	labelled map[label][]*pod
	at       map[kube.Place]*pod      // who has an address
	macs     map[kube.Place]ether.MAC // by which
	named    map[string]*pod          // by namespace/name
	issues   map[string][]lb.Issue    // by namespace/name, where there are any
	// contested tells that two pods have one address. Who has it follows from all of them.
	contested bool
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
	return slices.DeleteFunc(slices.Clone(fewest), func(p *pod) bool { return !hasLabels(p.Pod, selector) })
}

func hasLabels(p *corev1.Pod, selector map[string]string) bool {
	for key, value := range selector {
		if has, ok := p.Labels[key]; !ok || has != value {
			return false
		}
	}
	return true
}

// selects tells whether a Service selects a pod. An empty selector selects nothing.
func selects(svc *corev1.Service, p *corev1.Pod) bool {
	return len(svc.Spec.Selector) > 0 && svc.Namespace == p.Namespace && hasLabels(p, svc.Spec.Selector)
}

// readPods reads the Pods' attachments to our networks. A Pod that is not attached yet is no endpoint yet; of two Pods
// with one address on a segment, only the first has it. A Pod that terminates gives way to one that does not, because
// its address may be given away already; apart from that the older has it.
func readPods(pods []*corev1.Pod, nodes []*corev1.Node, networks []kube.Network) podSet {
	set := podSet{
		zones: map[string]string{}, segments: map[string]string{},
		labelled: map[label][]*pod{}, at: map[kube.Place]*pod{}, macs: map[kube.Place]ether.MAC{},
		named: map[string]*pod{}, issues: map[string][]lb.Issue{},
	}
	for _, node := range nodes {
		set.zones[node.Name] = node.Labels[corev1.LabelTopologyZone]
	}
	for _, network := range networks {
		set.segments[network.Name] = network.Segment
	}
	sorted := slices.DeleteFunc(slices.Clone(pods), isOut)
	slices.SortStableFunc(sorted, comparePods)
	for _, p := range sorted {
		if attached := set.add(p); attached != nil {
			for key, value := range p.Labels {
				at := label{p.Namespace, key, value}
				set.labelled[at] = append(set.labelled[at], attached)
			}
		}
	}
	return set
}

// isOut tells whether a Pod can be no endpoint, whatever it is attached to.
func isOut(p *corev1.Pod) bool {
	return p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// comparePods is the order in which Pods get their addresses.
func comparePods(a, b *corev1.Pod) int {
	return cmp.Or(
		cmp.Compare(gone(a), gone(b)),
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
	)
}

// replace takes Pods out and puts others in. It tells whether it could: if addresses are contested, the set is broken, and
// must be read anew.
func (s *podSet) replace(gone, come []*corev1.Pod) bool {
	if s.contested && len(gone)+len(come) > 0 {
		return false
	}
	for _, p := range gone {
		s.remove(p)
	}
	for _, p := range come {
		if isOut(p) {
			continue
		}
		attached := s.add(p)
		if s.contested {
			return false
		}
		if attached == nil {
			continue
		}
		for key, value := range p.Labels {
			at := label{p.Namespace, key, value}
			i, _ := slices.BinarySearchFunc(s.labelled[at], p, func(a *pod, b *corev1.Pod) int { return comparePods(a.Pod, b) })
			s.labelled[at] = slices.Insert(s.labelled[at], i, attached)
		}
	}
	return true
}

// remove forgets a Pod whose addresses nobody else has.
func (s *podSet) remove(p *corev1.Pod) {
	name := p.Namespace + "/" + p.Name
	delete(s.issues, name)
	attached := s.named[name]
	if attached == nil {
		return
	}
	delete(s.named, name)
	for on, addrs := range attached.addrs {
		for _, a := range addrs {
			where := kube.Place{Segment: s.segments[on.network], Addr: a.addr}
			delete(s.at, where)
			delete(s.macs, where)
		}
	}
	for key, value := range p.Labels {
		at := label{p.Namespace, key, value}
		s.labelled[at] = slices.DeleteFunc(s.labelled[at], func(o *pod) bool { return o == attached })
		if len(s.labelled[at]) == 0 {
			delete(s.labelled, at)
		}
	}
}

func gone(p *corev1.Pod) int {
	if p.DeletionTimestamp != nil {
		return 1
	}
	return 0
}

// add reads one Pod, and gives it if it is attached. Each of its interfaces on a network counts with its first address of
// each family.
func (s *podSet) add(p *corev1.Pod) *pod {
	out := &pod{Pod: p, zone: s.zones[p.Spec.NodeName], addrs: map[poolOf][]podAddr{}}
	refuse := func(reason, format string, args ...any) {
		s.issues[out.name()] = append(s.issues[out.name()],
			lb.Issue{Object: "Pod " + out.name(), Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
	attachments, err := kube.ParseNetworkStatus(p.Annotations[networkStatus])
	if err != nil {
		refuse(ReasonInvalidNetworkStatus, "%v: the pod is no endpoint: let Multus write it", err)
		return nil
	}
	for _, attachment := range attachments {
		segment, ours := s.segments[attachment.Network]
		addrs := firstOfEach(attachment.Addrs)
		switch {
		case !ours || len(addrs) == 0:
			continue
		case p.Spec.NodeName == "":
			refuse(ReasonNoNode, "spec.nodeName is empty, although the pod is attached to %s: set it", attachment.Network)
			continue
		case attachment.MAC.IsZero():
			refuse(ReasonNoMAC, "annotation %s: %s on %s has no MAC, and cannot be reached without: let Multus write it",
				networkStatus, addrs[0], attachment.Network)
			continue
		}
		for _, addr := range addrs {
			at := kube.Place{Segment: segment, Addr: addr}
			first := s.at[at]
			s.contested = s.contested || first != nil && first != out
			switch {
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
	if len(out.addrs) == 0 {
		return nil
	}
	s.named[out.name()] = out
	return out
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
