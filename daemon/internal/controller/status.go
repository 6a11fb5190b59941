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
		who := claimant{r.Name(), from.network, from.family}
		addr := a.given[who]
		vips[from.network] = append(vips[from.network], addr)
		texts = append(texts, fmt.Sprintf("%s has %s", from.network, addr))
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, ingress(r, addr, a.unserved[who]))
	}
	setVIPs(svc, kube.FormatVIPs(vips))

	if r.Local && len(vips) > 0 {
		texts = append(texts, "spec.externalTrafficPolicy Local: established connections break when another node comes to own a VIP")
	}

	condition := allocated(svc, now)
	lacks := len(r.Networks) == 0 || slices.ContainsFunc(r.Networks, func(name string) bool { return a.lacks(r, name) })
	if lacks || len(a.refused[r.Name()]) > 0 || r.Refused {
		condition.Status = metav1.ConditionFalse
		condition.Reason = whyPending(r, a.refused[r.Name()])
	}
	setCondition(svc, condition, texts, issues)
	return svc
}

// allocated gives a condition that says that nothing is wrong.
func allocated(svc *corev1.Service, now time.Time) metav1.Condition {
	return metav1.Condition{
		Type: kube.ConditionAllocated, Status: metav1.ConditionTrue, Reason: ReasonAllocated,
		ObservedGeneration: svc.Generation, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
	}
}

func setCondition(svc *corev1.Service, condition metav1.Condition, texts []string, issues []lb.Issue) {
	for _, issue := range issues {
		if text := issue.Reason + ": " + issue.Message; !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	condition.Message = strings.Join(texts, "; ")
	meta.SetStatusCondition(&svc.Status.Conditions, condition)
}

// yieldingStatus gives a Service whose status another controller writes: what that wrote stays, nothing else is ours but
// the condition that says so.
func yieldingStatus(r kube.Request, now time.Time) *corev1.Service {
	svc := r.Service.DeepCopy()
	svc.Status.LoadBalancer.Ingress = slices.DeleteFunc(svc.Status.LoadBalancer.Ingress,
		func(entry corev1.LoadBalancerIngress) bool { return kube.OwnIngress(r.Service, entry) })
	setVIPs(svc, "")
	condition := allocated(svc, now)
	condition.Status, condition.Reason = metav1.ConditionFalse, kube.ReasonForeignStatus
	setCondition(svc, condition, nil, r.Issues)
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
func ingress(r kube.Request, addr netip.Addr, unserved []kube.Port) corev1.LoadBalancerIngress {
	mode := corev1.LoadBalancerIPModeProxy
	entry := corev1.LoadBalancerIngress{IP: addr.String(), IPMode: &mode}
	for _, port := range r.Ports() {
		status := corev1.PortStatus{Port: port.Port, Protocol: port.Protocol}
		reason := ""
		switch {
		case port.Protocol != corev1.ProtocolTCP && port.Protocol != corev1.ProtocolUDP:
			reason = kube.Domain + "/" + kube.ReasonUnsupportedProtocol
		case slices.Contains(unserved, port):
			reason = kube.Domain + "/" + ReasonSharingConflict
		}
		if reason != "" {
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
