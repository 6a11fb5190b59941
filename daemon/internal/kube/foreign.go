// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Services that were written for another balancer run unmodified: under its class, by its annotation of networks. What
// we know of loxilb beyond that is that its staticIP asks for an address, as AnnotationIPs does.
const (
	loxilbDomain       = "loxilb.io"
	annotationLoxilbIP = loxilbDomain + "/staticIP"
)

// foreignDomains gives the domains of the balancers that we stand in for with a Service: that of an annotation that we
// read, and loxilb's where the Service is of its class.
func (o Options) foreignDomains(svc *corev1.Service) []string {
	var domains []string
	for _, annotation := range o.networkAnnotations() {
		if domain, _, ok := strings.Cut(annotation, "/"); ok && domain != Domain {
			domains = append(domains, domain)
		}
	}
	if domain, _, _ := strings.Cut(*svc.Spec.LoadBalancerClass, "/"); domain == loxilbDomain {
		domains = append(domains, domain)
	}
	return domains
}

// readStatus finds entries in the status of a class that is not ours alone which we did not write. kube-loxilb, which
// gives "llb-192.168.20.240" as a host name or the address itself, writes its own back whenever it sees another: two that
// fight for the status would leave clients without an address half of the time, so the first one has it.
func (r *Request) readStatus() {
	class := *r.Service.Spec.LoadBalancerClass
	if strings.HasPrefix(class, Domain+"/") {
		return
	}
	for _, entry := range r.Service.Status.LoadBalancer.Ingress {
		if OwnIngress(r.Service, entry) {
			continue
		}
		r.Yields = true
		r.refuse(ReasonForeignStatus, "status.loadBalancer shows %q, which another controller of class %s wrote, so the Service "+
			"gets no VIP: stop that controller, and remove the entry: %s", entry.IP+entry.Hostname, class,
			fmt.Sprintf(`kubectl -n %s patch service %s --subresource=status --type=merge -p `+
				`'{"status":{"loadBalancer":{"ingress":null}}}'`, r.Service.Namespace, r.Service.Name))
		return
	}
}

// OwnIngress tells whether an entry of a Service's status is as the controller writes it: an address in mode Proxy. API
// servers before 1.30 drop the mode; there an entry is ours if it is a VIP of AnnotationVIPs.
func OwnIngress(svc *corev1.Service, entry corev1.LoadBalancerIngress) bool {
	addr, err := netip.ParseAddr(entry.IP)
	switch {
	case err != nil || entry.Hostname != "":
		return false
	case entry.IPMode != nil:
		return *entry.IPMode == corev1.LoadBalancerIPModeProxy
	}
	vips, _ := ParseVIPs(svc.Annotations[AnnotationVIPs])
	for _, addrs := range vips {
		if slices.Contains(addrs, addr) {
			return true
		}
	}
	return false
}
