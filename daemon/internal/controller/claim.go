// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// place is where an address lives. One address on two segments is two VIPs.
type place struct {
	segment string
	addr    netip.Addr
}

// claimant is who needs a VIP: a Service on a network, both namespace/name, for one family.
type claimant struct {
	service, network string
	family           corev1.IPFamily
}

// claim gives one place to one claimant. Its name follows from the place, so that creating it is the lock.
type claim struct {
	place
	claimant
	holder string // the Service's UID, or its namespace/name where it has none, as in files
}

func holderOf(svc *corev1.Service) string {
	if svc.UID != "" {
		return string(svc.UID)
	}
	return svc.Namespace + "/" + svc.Name
}

// parseClaim reads a Lease that is labelled as a claim.
func parseClaim(lease *coordinationv1.Lease) (claim, error) {
	addr, err := netip.ParseAddr(lease.Annotations[kube.AnnotationAddress])
	if err != nil {
		return claim{}, fmt.Errorf("annotation %s: %w", kube.AnnotationAddress, err)
	}
	c := claim{
		place: place{lease.Annotations[kube.AnnotationSegment], addr},
		claimant: claimant{
			lease.Annotations[kube.AnnotationService], lease.Annotations[kube.AnnotationNetwork], kube.FamilyOf(addr),
		},
	}
	if lease.Spec.HolderIdentity != nil {
		c.holder = *lease.Spec.HolderIdentity
	}
	if want := c.name(); lease.Name != want {
		return claim{}, fmt.Errorf("metadata.name: its segment and address want %q", want)
	}
	return c, nil
}

// lease gives the claim's object.
func (c claim) lease() *coordinationv1.Lease {
	return &coordinationv1.Lease{
		TypeMeta: metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: kube.Namespace,
			Name:      c.name(),
			Labels:    map[string]string{kube.LabelClaim: "true"},
			Annotations: map[string]string{
				kube.AnnotationSegment: c.segment,
				kube.AnnotationAddress: c.addr.String(),
				kube.AnnotationService: c.service,
				kube.AnnotationNetwork: c.network,
			},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &c.holder},
	}
}

// name gives a DNS-safe name that no other place has: vip-eth1-192-168-20-240. A segment whose name had to be changed
// gets a hash of it; an IPv6 address is written out, so that its last group has four digits and no IPv4 address's has.
func (p place) name() string {
	segment := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, p.segment)
	if segment != p.segment {
		segment += "-" + shortHash(p.segment)
	}
	return "vip-" + segment + "-" + strings.NewReplacer(".", "-", ":", "-").Replace(p.addr.StringExpanded())
}

// shortHash gives eight hexadecimal digits.
func shortHash(text string) string {
	h := fnv.New32a()
	h.Write([]byte(text))
	return fmt.Sprintf("%08x", h.Sum32())
}
