// SPDX-License-Identifier: Apache-2.0

package kube

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
	"k8s.io/utils/ptr"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// Place is where an address lives. One address on two segments is two VIPs.
type Place struct {
	Segment string
	Addr    netip.Addr
}

// Sharer is one who has a VIP: a Service as it is now, not one that had its name before, on one of its networks.
type Sharer struct {
	Service, Network string // namespace/name
	Holder           string // see HolderOf
}

// Claim gives one place to one Service on a network, or to several with one sharing key. Its name follows from the place,
// so that creating its Lease is the lock. It alone says who has a VIP: nodes serve an address while a claim says so.
type Claim struct {
	Place
	Key     string   // that its sharers have, with the namespace that it counts in; empty: the VIP is not shared
	Sharers []Sharer // at least one; sorted
}

// HolderOf names this life of a Service: by its UID, or by namespace/name where it has none, as in files.
func HolderOf(svc *corev1.Service) string { return holder(string(svc.UID), svc.Namespace, svc.Name) }

func holder(uid, namespace, name string) string {
	if uid != "" {
		return uid
	}
	return namespace + "/" + name
}

// keyHolder leads the holder's identity in a claim that may be shared. No UID and no name of a Service holds a colon.
const keyHolder = "sharing-key:"

// apiSharer is an entry of AnnotationSharers.
type apiSharer struct {
	Service string `json:"service"`
	UID     string `json:"uid"` // the sharer's holder
	Network string `json:"network"`
}

// IsClaim tells whether a Lease stands for a claim.
func IsClaim(lease *coordinationv1.Lease) bool {
	return lease.Namespace == Namespace && lease.Labels[LabelClaim] == "true"
}

// ParseClaims reads the claims among the Leases, in their order. What cannot be read gives nobody anything, and an issue
// says why.
func (o Objects) ParseClaims() ([]Claim, []lb.Issue) {
	var claims []Claim
	var issues []lb.Issue
	for _, lease := range o.Leases {
		claim, found := convertClaim(lease)
		issues = append(issues, found...)
		if claim != nil {
			claims = append(claims, *claim)
		}
	}
	return claims, issues
}

// convertClaim reads a Lease, if it stands for a claim.
func convertClaim(lease *coordinationv1.Lease) (*Claim, []lb.Issue) {
	if !IsClaim(lease) {
		return nil, nil
	}
	claim, err := ParseClaim(lease)
	if err != nil {
		return nil, []lb.Issue{{
			Object: "Lease " + lease.Namespace + "/" + lease.Name, Reason: ReasonInvalidClaim,
			Message: fmt.Sprintf("%v: the claim counts for nothing, and the controller deletes it", err),
		}}
	}
	return &claim, nil
}

// ParseClaim reads a Lease for which IsClaim holds. The error names the field.
func ParseClaim(lease *coordinationv1.Lease) (Claim, error) {
	addr, err := netip.ParseAddr(lease.Annotations[AnnotationAddress])
	switch {
	case err != nil:
		return Claim{}, fmt.Errorf("annotation %s: %w", AnnotationAddress, err)
	case addr.Is4In6() || addr.Zone() != "":
		return Claim{}, fmt.Errorf("annotation %s: %s is another form of an address", AnnotationAddress, addr)
	}
	c := Claim{Place: Place{lease.Annotations[AnnotationSegment], addr}}
	if want := c.Name(); lease.Name != want {
		return Claim{}, fmt.Errorf("metadata.name: its segment and address want %q", want)
	}
	holder := ptr.Deref(lease.Spec.HolderIdentity, "")
	entries := []apiSharer{{lease.Annotations[AnnotationService], holder, lease.Annotations[AnnotationNetwork]}}
	if key, shared := strings.CutPrefix(holder, keyHolder); shared {
		c.Key, entries = key, nil
		if err := json.Unmarshal([]byte(lease.Annotations[AnnotationSharers]), &entries); err != nil {
			return Claim{}, fmt.Errorf("annotation %s: %w", AnnotationSharers, err)
		}
	}
	for _, e := range entries {
		c.Add(Sharer{Service: e.Service, Network: e.Network, Holder: e.UID})
	}
	if len(c.Sharers) == 0 {
		return Claim{}, fmt.Errorf("annotation %s names nobody", AnnotationSharers)
	}
	return c, nil
}

// Lease gives the claim's object: what ParseClaim reads.
func (c Claim) Lease() *coordinationv1.Lease {
	lease := &coordinationv1.Lease{
		TypeMeta: metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: Namespace,
			Name:      c.Name(),
			Labels:    map[string]string{LabelClaim: "true"},
			Annotations: map[string]string{
				AnnotationSegment: c.Segment,
				AnnotationAddress: c.Addr.String(),
			},
		},
	}
	holder := c.Sharers[0].Holder
	if c.Key == "" {
		lease.Annotations[AnnotationService] = c.Sharers[0].Service
		lease.Annotations[AnnotationNetwork] = c.Sharers[0].Network
	} else {
		holder = keyHolder + c.Key
		lease.Annotations[AnnotationSharers] = formatSharers(c.Sharers)
	}
	lease.Spec.HolderIdentity = &holder
	return lease
}

func formatSharers(sharers []Sharer) string {
	entries := make([]apiSharer, len(sharers))
	for i, s := range sharers {
		entries[i] = apiSharer{s.Service, s.Holder, s.Network}
	}
	text, err := json.Marshal(entries)
	if err != nil {
		panic(err) // texts always have a JSON form
	}
	return string(text)
}

// Add adds a sharer.
func (c *Claim) Add(s Sharer) {
	at, has := slices.BinarySearchFunc(c.Sharers, s, func(a, b Sharer) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Network, b.Network), cmp.Compare(a.Holder, b.Holder))
	})
	if !has {
		c.Sharers = slices.Insert(c.Sharers, at, s)
	}
}

// Remove removes what a Service has on a network.
func (c *Claim) Remove(service, network string) {
	c.Sharers = slices.DeleteFunc(c.Sharers, func(s Sharer) bool { return s.Service == service && s.Network == network })
}

// Has tells whether a sharer has the VIP.
func (c Claim) Has(s Sharer) bool { return slices.Contains(c.Sharers, s) }

// Equal tells whether two claims give the same VIP to the same sharers.
func (c Claim) Equal(o Claim) bool {
	return c.Place == o.Place && c.Key == o.Key && slices.Equal(c.Sharers, o.Sharers)
}

// Users names those who have the VIP, for people.
func (c Claim) Users() string {
	names := make([]string, len(c.Sharers))
	for i, s := range c.Sharers {
		names[i] = fmt.Sprintf("Service %s on %s", s.Service, s.Network)
	}
	return strings.Join(names, ", ")
}

// Name gives the name of the place's claim, DNS-safe, that no other place has: vip-eth1-192-168-20-240. A segment whose
// name had to be changed gets a hash of it; an IPv6 address is written out, so that its last group has four digits and no
// IPv4 address's has.
func (p Place) Name() string {
	segment := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, p.Segment)
	if segment != p.Segment {
		h := fnv.New32a()
		h.Write([]byte(p.Segment))
		segment += fmt.Sprintf("-%08x", h.Sum32())
	}
	return "vip-" + segment + "-" + strings.NewReplacer(".", "-", ":", "-").Replace(p.Addr.StringExpanded())
}

// giveVIPs gives copies of the Services with the addresses that claims say are theirs, sorted by network and address. A claim counts for
// the life of the Service that it names, and on the segment that it names: of a network that has moved away from there it
// says nothing.
func giveVIPs(services []lb.Service, networks []lb.Network, claims []Claim) []lb.Service {
	segments := make(map[string]string, len(networks))
	for _, n := range networks {
		segments[n.Name] = n.Segment
	}
	given := make(map[[2]string][]lb.ServiceVIP, len(claims)) // by the Service's name and holder
	for _, c := range claims {
		for _, s := range c.Sharers {
			if segment, known := segments[s.Network]; known && segment != c.Segment {
				continue
			}
			who := [2]string{s.Service, s.Holder}
			given[who] = append(given[who], lb.ServiceVIP{Network: s.Network, Addr: c.Addr})
		}
	}
	services = slices.Clone(services)
	for i := range services {
		svc := &services[i]
		svc.VIPs = given[[2]string{svc.Namespace + "/" + svc.Name, holder(svc.UID, svc.Namespace, svc.Name)}]
		slices.SortFunc(svc.VIPs, func(a, b lb.ServiceVIP) int {
			return cmp.Or(cmp.Compare(a.Network, b.Network), a.Addr.Compare(b.Addr))
		})
		svc.VIPs = slices.Compact(svc.VIPs)
	}
	return services
}
