// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

func TestFamilies(t *testing.T) {
	const (
		v4, v6                  = corev1.IPv4Protocol, corev1.IPv6Protocol
		single, prefer, require = corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack,
			corev1.IPFamilyPolicyRequireDualStack
	)
	const bad = kube.ReasonInvalidIPFamily
	type list = []corev1.IPFamily
	tests := map[string]struct {
		families   list
		policy     corev1.IPFamilyPolicy // empty: unset
		annotation string
		want       string
		issue      string // its reason
	}{
		"unset":                    {want: "[IPv4] SingleStack"},
		"IPv6":                     {families: list{v6}, want: "[IPv6] SingleStack"},
		"single":                   {families: list{v6}, policy: single, want: "[IPv6] SingleStack"},
		"one too many":             {families: list{v6, v4}, policy: single, want: "[IPv6] SingleStack", issue: bad},
		"two without a policy":     {families: list{v4, v6}, want: "[IPv4 IPv6] RequireDualStack"},
		"prefer":                   {policy: prefer, want: "[IPv4 IPv6] PreferDualStack"},
		"prefer, by order":         {families: list{v6, v4}, policy: prefer, want: "[IPv6 IPv4] PreferDualStack"},
		"prefer, in a v6 cluster":  {families: list{v6}, policy: prefer, want: "[IPv6 IPv4] PreferDualStack"},
		"require":                  {families: list{v4}, policy: require, want: "[IPv4 IPv6] RequireDualStack"},
		"unknown policy":           {policy: "Any", want: "[IPv4] SingleStack", issue: bad},
		"unknown family":           {families: list{"IPv5"}, want: "[] SingleStack", issue: bad},
		"annotation":               {families: list{v4}, policy: single, annotation: "IPv6", want: "[IPv6] SingleStack"},
		"annotation of both":       {policy: single, annotation: " IPv6 ,IPv4,IPv6", want: "[IPv6 IPv4] SingleStack"},
		"annotation over a policy": {policy: require, annotation: "IPv4", want: "[IPv4] SingleStack"},
		"annotation of nonsense":   {annotation: "IPv4,both", want: "[IPv4] SingleStack", issue: bad},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			class := kube.Class
			svc := &corev1.Service{Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: &class, IPFamilies: tc.families,
				Selector: map[string]string{"app": "web"},
			}}
			svc.Name, svc.Namespace = "web", "default"
			svc.Annotations = map[string]string{kube.AnnotationNetworks: "macvlan1", kube.AnnotationIPFamilies: tc.annotation}
			if tc.policy != "" {
				svc.Spec.IPFamilyPolicy = &tc.policy
			}
			r, ours := kube.Options{}.Request(svc)
			if got := fmt.Sprint(r.Families, " ", r.FamilyPolicy); got != tc.want || !ours {
				t.Errorf("families %s, want %s", got, tc.want)
			}
			switch {
			case tc.issue == "" && len(r.Issues) > 0:
				t.Errorf("issues: %v", r.Issues)
			case tc.issue != "" && (len(r.Issues) != 1 || r.Issues[0].Reason != tc.issue):
				t.Errorf("issues: %v, want one with reason %s", r.Issues, tc.issue)
			}
		})
	}
}
