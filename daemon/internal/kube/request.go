// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// Request is what one Service of our class asks for.
type Request struct {
	Service  *corev1.Service
	Networks []string          // namespace/name, each once, in the order written
	Families []corev1.IPFamily // of which a VIP is wanted on each network, each once, the more important first
	// FamilyPolicy says what a network shall do that cannot give all Families. SingleStack: give each family for itself.
	// PreferDualStack: the same, and one is enough. RequireDualStack: give nothing until it can give both.
	FamilyPolicy corev1.IPFamilyPolicy
	Addrs        []netip.Addr // of loadBalancerIP and AnnotationIPs, of these Families, each once, in the order written
	Refused      bool         // an address was asked for that cannot be given: no other may be given in its place
	SharingKey   string       // of AnnotationSharingKey; empty if VIPs are not to be shared
	Local        bool         // spec.externalTrafficPolicy is Local
	Clients      lb.Clients   // whom it lets in, and how
	// Yields tells that another controller writes the Service's status: it is to have nothing of ours until that ends.
	Yields bool
	Issues []lb.Issue // what of the Service cannot be honoured
}

// Request reads a Service. The answer is false for a Service that is not ours: another type, or another class.
func (o Options) Request(svc *corev1.Service) (Request, bool) {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || svc.Spec.LoadBalancerClass == nil ||
		!slices.Contains(o.classes(), *svc.Spec.LoadBalancerClass) {
		return Request{}, false
	}
	r := Request{Service: svc}
	r.readNetworks(o.networkAnnotations())
	r.readFamilies()
	r.readAddrs(o.foreignDomains(svc))
	r.readSharingKey()
	r.readSourceRanges()
	r.readAffinity()
	r.Local = svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	r.readStatus()
	r.refuseUnsupported()
	r.refuseAnnotations(o.networkAnnotations(), o.foreignDomains(svc))
	return r, true
}

// Name gives namespace/name.
func (r Request) Name() string { return r.Service.Namespace + "/" + r.Service.Name }

// Object names the Service as issues do.
func (r Request) Object() string { return "Service " + r.Name() }

func (r *Request) refuse(reason, format string, args ...any) {
	r.Issues = append(r.Issues, lb.Issue{Object: r.Object(), Reason: reason, Message: fmt.Sprintf(format, args...)})
}

func (r *Request) readNetworks(annotations []string) {
	for _, annotation := range annotations {
		names, bad := ParseNetworks(r.Service.Annotations[annotation], r.Service.Namespace)
		for _, name := range names {
			if !slices.Contains(r.Networks, name) {
				r.Networks = append(r.Networks, name)
			}
		}
		for _, name := range bad {
			r.refuse(ReasonInvalidNetworkName,
				"annotation %s: %q names no network: write the name of a NetworkAttachmentDefinition, or namespace/name",
				annotation, name)
		}
	}
	if len(r.Networks) == 0 {
		r.refuse(ReasonNoNetworks, "annotation %s names no network: list NetworkAttachmentDefinitions, such as %q",
			annotations[0], "macvlan1, storage/macvlan2")
	}
}

// ParseNetworks reads a comma-separated list of networks. A name without a namespace is in the given one; white space
// and empty entries do not count; a network that is listed twice is given once. Entries that cannot be names come back
// in bad.
func ParseNetworks(list, namespace string) (names, bad []string) {
	for entry := range strings.SplitSeq(list, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		ns, name, qualified := strings.Cut(entry, "/")
		if !qualified {
			ns, name = namespace, entry
		}
		if len(validation.IsDNS1123Label(ns)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
			bad = append(bad, entry)
			continue
		}
		if full := ns + "/" + name; !slices.Contains(names, full) {
			names = append(names, full)
		}
	}
	return names, bad
}

func (r *Request) readAddrs(foreign []string) {
	r.readAddr("spec.loadBalancerIP", r.Service.Spec.LoadBalancerIP)
	annotations := []string{AnnotationIPs}
	if slices.Contains(foreign, loxilbDomain) {
		annotations = append(annotations, annotationLoxilbIP)
	}
	for _, annotation := range annotations {
		for entry := range strings.SplitSeq(r.Service.Annotations[annotation], ",") {
			r.readAddr("annotation "+annotation, strings.TrimSpace(entry))
		}
	}
}

// readSharingKey reads the key. It becomes part of names, so it must be as a label's value is.
func (r *Request) readSharingKey() {
	key := r.Service.Annotations[AnnotationSharingKey]
	if problems := validation.IsValidLabelValue(key); len(problems) > 0 {
		r.refuse(ReasonInvalidSharingKey, "annotation %s: %q is no key, so the Service shares no VIP: write at most 63 letters, "+
			"digits, '-', '_' and '.', with a letter or digit at both ends", AnnotationSharingKey, key)
		return
	}
	r.SharingKey = key
}

// Port is one port of a VIP.
type Port struct {
	Protocol corev1.Protocol
	Port     int32
}

// String gives "TCP port 80".
func (p Port) String() string { return fmt.Sprintf("%s port %d", p.Protocol, p.Port) }

// Ports gives the ports that the Service has on each of its VIPs, in the order of the spec.
func (r Request) Ports() []Port {
	ports := make([]Port, 0, len(r.Service.Spec.Ports))
	for _, port := range r.Service.Spec.Ports {
		ports = append(ports, Port{cmp.Or(port.Protocol, corev1.ProtocolTCP), port.Port})
	}
	return ports
}

func (r *Request) readAddr(field, text string) {
	if text == "" {
		return
	}
	addr, err := netip.ParseAddr(text)
	addr = addr.Unmap()
	switch {
	case err != nil || addr.Zone() != "":
		r.Refused = true
		r.refuse(ReasonInvalidAddress, "%s: %q is no IP address: write one such as 192.168.20.240", field, text)
	case !slices.Contains(r.Families, FamilyOf(addr)):
		r.refuse(ReasonInvalidIPFamily, "%s: %s is of a family that the Service does not want: add %s to annotation %s",
			field, addr, FamilyOf(addr), AnnotationIPFamilies)
	case !slices.Contains(r.Addrs, addr):
		r.Addrs = append(r.Addrs, addr)
	}
}

// refuseUnsupported names every field that means something in Kubernetes and nothing here yet.
func (r *Request) refuseUnsupported() {
	spec := r.Service.Spec
	for _, port := range spec.Ports {
		if _, ok := protocol(port.Protocol); !ok {
			r.refuse(ReasonUnsupportedProtocol, "spec.ports: port %d: %s is not balanced: this version knows TCP and UDP",
				port.Port, port.Protocol)
		}
	}
	if spec.TrafficDistribution != nil {
		r.refuse(ReasonUnsupportedTopology,
			"spec.trafficDistribution: %s has no effect in this version: remove it", *spec.TrafficDistribution)
	}
}

// refuseAnnotations names every annotation under our domain, or under that of another balancer that we stand in for, that
// nothing reads: a typing error, or a feature of the balancer that the Service was written for.
func (r *Request) refuseAnnotations(networkAnnotations, foreign []string) {
	known := append([]string{
		AnnotationNetworks, AnnotationIPs, AnnotationIPFamilies, AnnotationSharingKey, AnnotationForwarding, AnnotationVIPs,
		annotationLoxilbIP,
	}, networkAnnotations...)
	for key, value := range r.Service.Annotations {
		domain, _, _ := strings.Cut(key, "/")
		ours := domain == Domain || slices.Contains(foreign, domain)
		switch {
		case ours && !slices.Contains(known, key):
			r.refuse(ReasonUnsupportedAnnotation, "annotation %s has no effect in this version: remove it", key)
		case key == AnnotationForwarding && value != "direct":
			r.refuse(ReasonUnsupportedForwarding, "annotation %s: %q: this version knows %q only", key, value, "direct")
		}
	}
	SortIssues(r.Issues)
}

// protocol gives the number of a protocol; the API's default is TCP.
func protocol(p corev1.Protocol) (lb.Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return lb.TCP, true
	case corev1.ProtocolUDP:
		return lb.UDP, true
	}
	return 0, false
}
