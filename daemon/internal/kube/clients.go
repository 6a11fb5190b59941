// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// readSourceRanges never opens what was meant to be closed: a range that cannot be read lets nobody in.
func (r *Request) readSourceRanges() {
	r.Clients.Restricted = len(r.Service.Spec.LoadBalancerSourceRanges) > 0
	for _, text := range r.Service.Spec.LoadBalancerSourceRanges {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || prefix.Addr().Is4In6() {
			r.refuse(ReasonInvalidSourceRange, "spec.loadBalancerSourceRanges: %q is no range of addresses, so it lets nobody in: "+
				"write one such as 192.168.20.0/24", text)
			continue
		}
		if prefix = prefix.Masked(); !slices.Contains(r.Clients.Ranges, prefix) {
			r.Clients.Ranges = append(r.Clients.Ranges, prefix)
		}
	}
}

// Seconds that a client keeps its pod, as Kubernetes has them (core/v1, ClientIPConfig).
const (
	defaultAffinity = corev1.DefaultClientIPServiceAffinitySeconds
	maxAffinity     = 86_400
)

func (r *Request) readAffinity() {
	spec := r.Service.Spec
	switch spec.SessionAffinity {
	case "", corev1.ServiceAffinityNone:
		return
	case corev1.ServiceAffinityClientIP:
	default:
		r.refuse(ReasonInvalidAffinity, "spec.sessionAffinity: %q is not known: write None or ClientIP", spec.SessionAffinity)
		return
	}
	r.Clients.Affinity = uint32(defaultAffinity)
	config := spec.SessionAffinityConfig
	if config == nil || config.ClientIP == nil || config.ClientIP.TimeoutSeconds == nil {
		return
	}
	timeout := *config.ClientIP.TimeoutSeconds
	if timeout < 1 || timeout > maxAffinity {
		r.refuse(ReasonInvalidAffinity, "spec.sessionAffinityConfig.clientIP.timeoutSeconds: %d is not between 1 and %d: %d is used",
			timeout, maxAffinity, defaultAffinity)
		return
	}
	r.Clients.Affinity = uint32(timeout)
}
