// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// shows tells whether a Service's status gives an address on a network.
func shows(svc *corev1.Service, network string, addr netip.Addr) bool {
	vips, err := kube.ParseVIPs(svc.Annotations[kube.AnnotationVIPs])
	return err == nil && slices.Contains(vips[network], addr)
}

// withStatus gives the Service with the status that it shall have: the VIPs, and in the condition all that is wrong.
func withStatus(r kube.Request, a *allocator, issues []lb.Issue, now time.Time) *corev1.Service {
	svc := r.Service.DeepCopy()
	vips := map[string][]netip.Addr{}
	svc.Status.LoadBalancer.Ingress = nil
	var texts []string
	for _, from := range a.served(r) {
		addr := a.given[claimant{r.Name(), from.network, from.family}]
		vips[from.network] = append(vips[from.network], addr)
		texts = append(texts, fmt.Sprintf("%s has %s", from.network, addr))
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, ingress(svc, addr))
	}
	setVIPs(svc, kube.FormatVIPs(vips))

	condition := metav1.Condition{
		Type: kube.ConditionAllocated, Status: metav1.ConditionTrue, Reason: ReasonAllocated,
		ObservedGeneration: svc.Generation, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
	}
	lacks := len(r.Networks) == 0 || slices.ContainsFunc(r.Networks, func(name string) bool { return a.lacks(r, name) })
	if lacks || len(a.refused[r.Name()]) > 0 || r.Refused {
		condition.Status = metav1.ConditionFalse
		condition.Reason = whyPending(r, a.refused[r.Name()])
	}
	for _, issue := range issues {
		if text := issue.Reason + ": " + issue.Message; !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	condition.Message = strings.Join(texts, "; ")
	meta.SetStatusCondition(&svc.Status.Conditions, condition)
	return svc
}

// whyPending gives the condition's reason: what the allocation says, or else what the Service itself does.
func whyPending(r kube.Request, refused []lb.Issue) string {
	if len(refused) > 0 {
		return refused[0].Reason
	}
	for _, issue := range r.Issues {
		switch issue.Reason {
		case kube.ReasonInvalidAddress, kube.ReasonNoNetworks, kube.ReasonInvalidNetworkName, kube.ReasonInvalidIPFamily:
			return issue.Reason
		}
	}
	return kube.ReasonInvalidAnnotation
}

// ingress gives a VIP's entry. Its mode keeps kube-proxy from capturing the VIP on the nodes.
func ingress(svc *corev1.Service, addr netip.Addr) corev1.LoadBalancerIngress {
	mode := corev1.LoadBalancerIPModeProxy
	entry := corev1.LoadBalancerIngress{IP: addr.String(), IPMode: &mode}
	for _, port := range svc.Spec.Ports {
		status := corev1.PortStatus{Port: port.Port, Protocol: port.Protocol}
		switch port.Protocol {
		case "":
			status.Protocol = corev1.ProtocolTCP
		case corev1.ProtocolTCP, corev1.ProtocolUDP:
		default:
			reason := kube.Domain + "/" + kube.ReasonUnsupportedProtocol
			status.Error = &reason
		}
		entry.Ports = append(entry.Ports, status)
	}
	return entry
}

// withoutStatus gives a Service that is not ours without what we wrote when it was, and tells whether there was any.
// Addresses that another balancer wrote meanwhile stay.
func withoutStatus(svc *corev1.Service) (*corev1.Service, bool) {
	text, annotated := svc.Annotations[kube.AnnotationVIPs]
	if !annotated && meta.FindStatusCondition(svc.Status.Conditions, kube.ConditionAllocated) == nil {
		return nil, false
	}
	out := svc.DeepCopy()
	setVIPs(out, "")
	meta.RemoveStatusCondition(&out.Status.Conditions, kube.ConditionAllocated)
	vips, err := kube.ParseVIPs(text)
	out.Status.LoadBalancer.Ingress = slices.DeleteFunc(out.Status.LoadBalancer.Ingress,
		func(entry corev1.LoadBalancerIngress) bool {
			addr, addrErr := netip.ParseAddr(entry.IP)
			if err != nil || addrErr != nil {
				return false
			}
			for _, addrs := range vips {
				if slices.Contains(addrs, addr) {
					return true
				}
			}
			return false
		})
	return out, true
}

func setVIPs(svc *corev1.Service, text string) {
	if text == "" {
		delete(svc.Annotations, kube.AnnotationVIPs)
		return
	}
	if svc.Annotations == nil {
		svc.Annotations = map[string]string{}
	}
	svc.Annotations[kube.AnnotationVIPs] = text
}
