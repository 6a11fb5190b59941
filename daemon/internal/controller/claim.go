// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
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

// sharer is one who has a VIP: a Service as it is now, not one that had its name before.
type sharer struct {
	claimant
	holder string // the Service's UID, or its namespace/name where it has none, as in files
}

// claim gives one place to one claimant, or to several with one sharing key. Its name follows from the place, so that
// creating it is the lock.
type claim struct {
	place
	key     string   // that its sharers have, with the namespace that it counts in; empty: the VIP is not shared
	sharers []sharer // at least one; sorted
}

func holderOf(svc *corev1.Service) string {
	if svc.UID != "" {
		return string(svc.UID)
	}
	return svc.Namespace + "/" + svc.Name
}

// keyHolder leads the holder's identity in a claim that may be shared. No UID and no name of a Service holds a colon.
const keyHolder = "sharing-key:"

// apiSharer is an entry of kube.AnnotationSharers.
type apiSharer struct {
	Service string `json:"service"`
	UID     string `json:"uid"` // the sharer's holder
	Network string `json:"network"`
}

// parseClaim reads a Lease that is labelled as a claim.
func parseClaim(lease *coordinationv1.Lease) (claim, error) {
	addr, err := netip.ParseAddr(lease.Annotations[kube.AnnotationAddress])
	if err != nil {
		return claim{}, fmt.Errorf("annotation %s: %w", kube.AnnotationAddress, err)
	}
	c := claim{place: place{lease.Annotations[kube.AnnotationSegment], addr}}
	if want := c.name(); lease.Name != want {
		return claim{}, fmt.Errorf("metadata.name: its segment and address want %q", want)
	}
	holder := ""
	if lease.Spec.HolderIdentity != nil {
		holder = *lease.Spec.HolderIdentity
	}
	entries := []apiSharer{{lease.Annotations[kube.AnnotationService], holder, lease.Annotations[kube.AnnotationNetwork]}}
	if key, shared := strings.CutPrefix(holder, keyHolder); shared {
		c.key, entries = key, nil
		if err := json.Unmarshal([]byte(lease.Annotations[kube.AnnotationSharers]), &entries); err != nil {
			return claim{}, fmt.Errorf("annotation %s: %w", kube.AnnotationSharers, err)
		}
	}
	for _, e := range entries {
		c.add(sharer{claimant{e.Service, e.Network, kube.FamilyOf(addr)}, e.UID})
	}
	if len(c.sharers) == 0 {
		return claim{}, fmt.Errorf("annotation %s names nobody", kube.AnnotationSharers)
	}
	return c, nil
}

// lease gives the claim's object.
func (c claim) lease() *coordinationv1.Lease {
	lease := &coordinationv1.Lease{
		TypeMeta: metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: kube.Namespace,
			Name:      c.name(),
			Labels:    map[string]string{kube.LabelClaim: "true"},
			Annotations: map[string]string{
				kube.AnnotationSegment: c.segment,
				kube.AnnotationAddress: c.addr.String(),
			},
		},
	}
	holder := c.sharers[0].holder
	if c.key == "" {
		lease.Annotations[kube.AnnotationService] = c.sharers[0].service
		lease.Annotations[kube.AnnotationNetwork] = c.sharers[0].network
	} else {
		holder = keyHolder + c.key
		lease.Annotations[kube.AnnotationSharers] = formatSharers(c.sharers)
	}
	lease.Spec.HolderIdentity = &holder
	return lease
}

func formatSharers(sharers []sharer) string {
	entries := make([]apiSharer, len(sharers))
	for i, s := range sharers {
		entries[i] = apiSharer{s.service, s.holder, s.network}
	}
	text, err := json.Marshal(entries)
	if err != nil {
		panic(err) // texts always have a JSON form
	}
	return string(text)
}

// add adds a sharer.
func (c *claim) add(s sharer) {
	at, has := slices.BinarySearchFunc(c.sharers, s, func(a, b sharer) int {
		return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.network, b.network), cmp.Compare(a.holder, b.holder))
	})
	if !has {
		c.sharers = slices.Insert(c.sharers, at, s)
	}
}

// remove removes a claimant.
func (c *claim) remove(who claimant) {
	c.sharers = slices.DeleteFunc(c.sharers, func(s sharer) bool { return s.claimant == who })
}

// has tells whether a sharer has the VIP.
func (c claim) has(s sharer) bool { return slices.Contains(c.sharers, s) }

// equal tells whether two claims give the same VIP to the same claimants.
func (c claim) equal(o claim) bool {
	return c.place == o.place && c.key == o.key && slices.Equal(c.sharers, o.sharers)
}

// goesOn tells whether somebody of the claim has the VIP by another claim for the same place, too.
func (c claim) goesOn(o claim) bool { return slices.ContainsFunc(c.sharers, o.has) }

// users names those who have the VIP.
func (c claim) users() string {
	names := make([]string, len(c.sharers))
	for i, s := range c.sharers {
		names[i] = fmt.Sprintf("Service %s on %s", s.service, s.network)
	}
	return strings.Join(names, ", ")
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
