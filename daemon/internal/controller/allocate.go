// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/netconf"
)

// allocator gives each claimant one address of its network's pool of that family.
type allocator struct {
	networks map[string]kube.Network
	known    map[string]bool         // NADs that exist, ours or not
	overlap  map[poolOf]string       // pool → network of another that overlaps in part
	leased   []*coordinationv1.Lease // claims as they are stored
	podHas   map[place]*pod          // addresses that no VIP may have
	given    map[claimant]netip.Addr
	held     map[claimant]netip.Addr // given before this plan
	taken    map[place]claim         // by whom, whether or not it will stay so
	keep     []claim                 // claims that stay although their network is missing now
	refused  map[string][]lb.Issue   // why a Service lacks VIPs
	noted    map[string][]lb.Issue   // which VIPs a Service does without, and that it may
	issues   []lb.Issue              // about other objects
}

// poolOf is a network's pool of one family.
type poolOf struct {
	network string
	family  corev1.IPFamily
}

// pool gives the VIPs of one family.
func pool(network kube.Network, family corev1.IPFamily) netconf.Pool {
	if family == corev1.IPv4Protocol {
		return network.Settings.VIPs.IPv4()
	}
	return network.Settings.VIPs.IPv6()
}

func newAllocator(objects kube.Objects, networks []kube.Network, pods podSet) *allocator {
	a := &allocator{
		networks: map[string]kube.Network{}, known: map[string]bool{}, overlap: map[poolOf]string{}, podHas: pods.at,
		given: map[claimant]netip.Addr{}, taken: map[place]claim{},
		refused: map[string][]lb.Issue{}, noted: map[string][]lb.Issue{},
	}
	for _, nad := range objects.Networks {
		a.known[nad.Namespace+"/"+nad.Name] = true
	}
	for _, network := range networks {
		a.networks[network.Name] = network
	}
	for _, lease := range objects.Leases {
		if lease.Namespace == kube.Namespace && lease.Labels[kube.LabelClaim] == "true" {
			a.leased = append(a.leased, lease)
		}
	}
	a.findOverlaps(networks, corev1.IPv4Protocol)
	a.findOverlaps(networks, corev1.IPv6Protocol)
	return a
}

// allocate gives addresses in four rounds, so that no newcomer takes what another has: claims stay, then what a Service
// shows without a claim, then addresses that are asked for, then the first free one.
func (a *allocator) allocate(requests []kube.Request) {
	a.keepClaims(requests)
	for _, r := range requests {
		a.keepShown(r)
	}
	a.held = maps.Clone(a.given)
	for _, r := range requests {
		a.giveAsked(r)
	}
	for _, r := range requests {
		a.giveFree(r)
	}
}

// leases gives the claims that shall exist, sorted by name.
func (a *allocator) leases() []*coordinationv1.Lease {
	claims := slices.Clone(a.keep)
	for who, addr := range a.given {
		claims = append(claims, a.taken[place{a.networks[who.network].Segment, addr}])
	}
	leases := make([]*coordinationv1.Lease, 0, len(claims))
	for _, c := range claims {
		leases = append(leases, c.lease())
	}
	slices.SortFunc(leases, byName[*coordinationv1.Lease])
	return leases
}

// usable gives the networks of a request that exist and admit it, in the request's order.
func (a *allocator) usable(r kube.Request) []kube.Network {
	var usable []kube.Network
	for _, name := range r.Networks {
		if network, ok := a.networks[name]; ok && network.Settings.AllowsNamespace(r.Service.Namespace) {
			usable = append(usable, network)
		}
	}
	return usable
}

// served gives the pools from which a Service has a VIP, in the order of the request's networks and then families.
func (a *allocator) served(r kube.Request) []poolOf {
	var served []poolOf
	for _, network := range r.Networks {
		for _, family := range r.Families {
			if _, has := a.given[claimant{r.Name(), network, family}]; has {
				served = append(served, poolOf{network, family})
			}
		}
	}
	return served
}

// lacks tells whether a network owes a Service a VIP.
func (a *allocator) lacks(r kube.Request, network string) bool {
	has := 0
	for _, family := range r.Families {
		if _, ok := a.given[claimant{r.Name(), network, family}]; ok {
			has++
		}
	}
	return has == 0 || has < len(r.Families) && r.FamilyPolicy != corev1.IPFamilyPolicyPreferDualStack
}

// may tells whether a claimant's request allows it an address on a network.
func (a *allocator) may(r kube.Request, network kube.Network, addr netip.Addr) bool {
	return slices.Contains(r.Families, kube.FamilyOf(addr)) && network.Settings.VIPs.Contains(addr) &&
		network.Settings.AllowsNamespace(r.Service.Namespace)
}

func (a *allocator) give(r kube.Request, network kube.Network, addr netip.Addr) {
	who, where := claimant{r.Name(), network.Name, kube.FamilyOf(addr)}, place{network.Segment, addr}
	a.given[who] = addr
	a.taken[where] = claim{place: where, claimant: who, holder: holderOf(r.Service)}
}

// keepClaims leaves each claim with its Service while the Service and its network still want it. The claims that it
// does not keep are to be deleted, and their addresses count as free.
func (a *allocator) keepClaims(requests []kube.Request) {
	byName := map[string]kube.Request{}
	for _, r := range requests {
		byName[r.Name()] = r
	}
	for _, lease := range a.leased {
		c, err := parseClaim(lease)
		if err != nil {
			a.issues = append(a.issues, lb.Issue{
				Object: "Lease " + lease.Namespace + "/" + lease.Name, Reason: ReasonInvalidClaim,
				Message: fmt.Sprintf("%v: the claim counts for nothing and is deleted", err),
			})
			continue
		}
		r, ok := byName[c.service]
		if !ok || c.holder != holderOf(r.Service) || !slices.Contains(r.Networks, c.network) {
			continue
		}
		network, exists := a.networks[c.network]
		_, twice := a.given[c.claimant]
		switch {
		case !exists: // it may come back, and its VIP with it
			a.keep = append(a.keep, c)
			a.taken[c.place] = c
		case network.Segment != c.segment || !a.may(r, network, c.addr):
		case twice && !shows(r.Service, c.network, c.addr):
			// A change of address was cut short: the claim that the status does not show goes.
			a.taken[c.place] = c
		default:
			a.give(r, network, c.addr)
		}
	}
}

// keepShown claims anew what a Service's status shows, if nobody has it.
func (a *allocator) keepShown(r kube.Request) {
	vips, err := kube.ParseVIPs(r.Service.Annotations[kube.AnnotationVIPs])
	if err != nil {
		return // the annotation is written anew
	}
	for _, network := range a.usable(r) {
		for _, addr := range vips[network.Name] {
			_, has := a.given[claimant{r.Name(), network.Name, kube.FamilyOf(addr)}]
			_, used := a.taken[place{network.Segment, addr}]
			if !has && !used && a.may(r, network, addr) {
				a.give(r, network, addr)
			}
		}
	}
}

// refuse says why a Service lacks a VIP.
func (a *allocator) refuse(r kube.Request, reason, format string, args ...any) {
	a.refused[r.Name()] = append(a.refused[r.Name()],
		lb.Issue{Object: r.Object(), Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// findOverlaps reports pools of a family that overlap in part. Equal pools on one segment are one pool: teams copy NADs.
func (a *allocator) findOverlaps(networks []kube.Network, family corev1.IPFamily) {
	type poolKey struct{ segment, pool string }
	distinct := map[poolKey]kube.Network{} // the first of those that are equal
	for _, network := range networks {
		key := poolKey{network.Segment, pool(network, family).String()}
		if _, ok := distinct[key]; !ok {
			distinct[key] = network
		}
	}
	keys := slices.SortedFunc(maps.Keys(distinct), func(x, y poolKey) int {
		return cmp.Or(cmp.Compare(x.segment, y.segment), cmp.Compare(x.pool, y.pool))
	})
	partner := map[poolKey]kube.Network{}
	for i, x := range keys {
		for _, y := range keys[i+1:] {
			if x.segment == y.segment && pool(distinct[x], family).Overlaps(pool(distinct[y], family)) {
				partner[x], partner[y] = distinct[y], distinct[x]
			}
		}
	}
	for _, network := range networks {
		other, ok := partner[poolKey{network.Segment, pool(network, family).String()}]
		if !ok {
			continue
		}
		a.overlap[poolOf{network.Name, family}] = other.Name
		a.issues = append(a.issues, lb.Issue{
			Object: network.Object(), Reason: ReasonPoolOverlap,
			Message: fmt.Sprintf("\"vips\" (%s) overlap those of %s (%s) on segment %s, so neither gives a new VIP: "+
				"make them equal, or apart", pool(network, family), other.Name, pool(other, family), network.Segment),
		})
	}
}
