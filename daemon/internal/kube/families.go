// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// FamilyOf gives the family of an address, by the API's name.
func FamilyOf(addr netip.Addr) corev1.IPFamily {
	if addr.Unmap().Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// readFamilies reads which families a Service wants. AnnotationIPFamilies lists them, each for itself, and overrides the
// spec, which the API server bounds by the cluster's own families: the VIPs' network need not have the same.
func (r *Request) readFamilies() {
	r.FamilyPolicy = corev1.IPFamilyPolicySingleStack
	if list := r.Service.Annotations[AnnotationIPFamilies]; list != "" {
		for entry := range strings.SplitSeq(list, ",") {
			r.wantFamily("annotation "+AnnotationIPFamilies, corev1.IPFamily(strings.TrimSpace(entry)))
		}
		return
	}
	for _, family := range r.Service.Spec.IPFamilies {
		r.wantFamily("spec.ipFamilies", family)
	}
	if len(r.Families) == 0 && len(r.Service.Spec.IPFamilies) == 0 {
		r.Families = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	switch policy := r.Service.Spec.IPFamilyPolicy; {
	case policy == nil && len(r.Families) > 1: // as the API server's default
		r.FamilyPolicy = corev1.IPFamilyPolicyRequireDualStack
	case policy == nil:
	case *policy == corev1.IPFamilyPolicyPreferDualStack, *policy == corev1.IPFamilyPolicyRequireDualStack:
		r.FamilyPolicy = *policy
		for _, family := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
			if !slices.Contains(r.Families, family) {
				r.Families = append(r.Families, family)
			}
		}
	case *policy == corev1.IPFamilyPolicySingleStack:
		if len(r.Families) > 1 {
			r.refuse(ReasonInvalidIPFamily, "spec.ipFamilies: %s is one family more than ipFamilyPolicy %s has, and not used: "+
				"write one family, or %s", r.Families[1], *policy, corev1.IPFamilyPolicyPreferDualStack)
			r.Families = r.Families[:1]
		}
	default:
		r.refuse(ReasonInvalidIPFamily, "spec.ipFamilyPolicy: %q is not known and counts as %s", *policy,
			corev1.IPFamilyPolicySingleStack)
	}
}

func (r *Request) wantFamily(field string, family corev1.IPFamily) {
	switch {
	case family != corev1.IPv4Protocol && family != corev1.IPv6Protocol:
		r.refuse(ReasonInvalidIPFamily, "%s: %q is no IP family: write IPv4, IPv6 or both", field, family)
	case !slices.Contains(r.Families, family):
		r.Families = append(r.Families, family)
	}
}
