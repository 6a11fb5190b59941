// SPDX-License-Identifier: Apache-2.0

package controller

import (
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
	requests map[string]kube.Request // by Service
	age      map[string]int          // of a Service among the requests: 0 is the oldest's
	networks map[string]kube.Network
	known    map[string]bool     // NADs that exist, ours or not
	overlap  map[poolOf]string   // pool → network of another that overlaps in part
	stored   []kube.Claim        // claims as they came
	podHas   map[kube.Place]*pod // addresses that no VIP may have
	given    map[claimant]netip.Addr
	held     map[claimant]netip.Addr    // given before this plan
	next     map[poolOf]netip.Addr      // before which no address of a pool is free
	claims   map[kube.Place]*kube.Claim // as they shall be; also those of networks that are missing now
	leaving  map[kube.Place]kube.Claim  // what has its place until this plan is carried out
	shared   map[scope][]kube.Place     // of claims with a sharing key, as they came
	unserved map[claimant][]kube.Port
	refused  map[string][]lb.Issue // why a Service lacks VIPs
	noted    map[string][]lb.Issue // what of a Service's wishes is not fulfilled, although it has its VIPs
	issues   []lb.Issue            // about other objects
}

// claimant is who needs a VIP: a Service on a network, both namespace/name, for one family.
type claimant struct {
	service, network string
	family           corev1.IPFamily
}

// placeOf gives the place of an address on a network.
func placeOf(network kube.Network, addr netip.Addr) kube.Place {
	return kube.Place{Segment: network.Segment, Addr: addr}
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
		requests: map[string]kube.Request{}, age: map[string]int{},
		networks: map[string]kube.Network{}, known: map[string]bool{}, overlap: map[poolOf]string{}, podHas: pods.at,
		given: map[claimant]netip.Addr{}, next: map[poolOf]netip.Addr{}, claims: map[kube.Place]*kube.Claim{}, leaving: map[kube.Place]kube.Claim{},
		shared: map[scope][]kube.Place{}, unserved: map[claimant][]kube.Port{},
		refused: map[string][]lb.Issue{}, noted: map[string][]lb.Issue{},
	}
	for _, nad := range objects.Networks {
		a.known[nad.Namespace+"/"+nad.Name] = true
	}
	for _, network := range networks {
		a.networks[network.Name] = network
	}
	a.stored, a.issues = objects.ParseClaims()
	a.findOverlaps(networks, corev1.IPv4Protocol)
	a.findOverlaps(networks, corev1.IPv6Protocol)
	return a
}

// allocate gives addresses in four rounds, so that no newcomer takes what another has: claims stay, then what a Service
// shows without a claim, then addresses that are asked for, then the first free one. In each the first request comes
// first.
func (a *allocator) allocate(requests []kube.Request) {
	for i, r := range requests {
		a.requests[r.Name()], a.age[r.Name()] = r, i
	}
	a.keepClaims()
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
	for _, r := range requests {
		a.noteOutside(r)
		a.noteSharing(r)
	}
}

// leases gives the claims that shall exist, sorted by name.
func (a *allocator) leases() []*coordinationv1.Lease {
	leases := make([]*coordinationv1.Lease, 0, len(a.claims))
	for _, c := range a.claims {
		leases = append(leases, c.Lease())
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

// admits tells whether a network gives VIPs of an address's family to a Service, and the Service wants them.
func admits(r kube.Request, network kube.Network, addr netip.Addr) bool {
	return slices.Contains(r.Families, kube.FamilyOf(addr)) && network.Settings.AllowsNamespace(r.Service.Namespace)
}

// may tells whether a claimant's request allows it an address on a network.
func (a *allocator) may(r kube.Request, network kube.Network, addr netip.Addr) bool {
	return admits(r, network, addr) && network.Settings.VIPs.Contains(addr)
}

// isFree tells whether nobody has a place, be it for the moment.
func (a *allocator) isFree(where kube.Place) bool {
	_, leaving := a.leaving[where]
	return a.claims[where] == nil && !leaving && a.podHas[where] == nil
}

// give lets a claimant have a place, alone or beside those that share it. What it had of the pool it leaves.
func (a *allocator) give(r kube.Request, network kube.Network, addr netip.Addr) {
	who := claimant{r.Name(), network.Name, kube.FamilyOf(addr)}
	if before, had := a.given[who]; had {
		a.leave(who, placeOf(network, before))
	}
	a.given[who] = addr
	a.put(placeOf(network, addr), a.scopeOf(r, network).key, kube.Sharer{
		Service: who.service, Network: who.network, Holder: kube.HolderOf(r.Service),
	})
}

// put adds a sharer to the claim for a place.
func (a *allocator) put(where kube.Place, key string, s kube.Sharer) {
	delete(a.leaving, where)
	c := a.claims[where]
	if c == nil {
		c = &kube.Claim{Place: where, Key: key}
		a.claims[where] = c
		if key != "" {
			of := scope{where.Segment, key}
			a.shared[of] = append(a.shared[of], where)
		}
	}
	c.Add(s)
}

// leave takes a claimant from its place. That comes free when the plan is carried out, and no sooner.
func (a *allocator) leave(who claimant, where kube.Place) {
	c := a.claims[where]
	delete(a.given, who)
	if len(c.Sharers) > 1 {
		c.Remove(who.service, who.network)
		return
	}
	a.leaving[where] = *c
	delete(a.claims, where)
	if c.Key != "" {
		of := scope{where.Segment, c.Key}
		a.shared[of] = slices.DeleteFunc(a.shared[of], func(p kube.Place) bool { return p == where })
	}
}

// keepClaims leaves each claim with its Services while they and their networks still want it. The claims that it does
// not keep are to be deleted, and their addresses count as free. An address that its pool has no more stays with those
// that have it: clients know it.
func (a *allocator) keepClaims() {
	for _, c := range a.stored {
		for _, s := range a.inOrder(c) {
			a.keepSharer(c, s)
		}
	}
}

func (a *allocator) keepSharer(c kube.Claim, s kube.Sharer) {
	r, ok := a.requests[s.Service]
	if !ok || s.Holder != kube.HolderOf(r.Service) || !slices.Contains(r.Networks, s.Network) {
		return
	}
	network, exists := a.networks[s.Network]
	_, twice := a.given[claimant{s.Service, s.Network, kube.FamilyOf(c.Addr)}]
	now := a.claims[c.Place]
	switch {
	case !exists: // it may come back, and its VIP with it
		if now == nil || now.Key != "" && now.Key == c.Key {
			a.put(c.Place, c.Key, s)
		}
	case network.Segment != c.Segment || !admits(r, network, c.Addr):
	case twice && !shows(r.Service, s.Network, c.Addr):
		// A change of address was cut short: the claim that the status does not show goes.
		if now == nil {
			a.leaving[c.Place] = c
		}
	case now == nil || now.Key != "" && now.Key == a.scopeOf(r, network).key:
		a.give(r, network, c.Addr)
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
			if !has && a.may(r, network, addr) && (a.isFree(placeOf(network, addr)) || a.canJoin(r, network, addr)) {
				a.give(r, network, addr)
			}
		}
	}
}

// noteOutside says which of a Service's VIPs its networks' pools do not hold any more.
func (a *allocator) noteOutside(r kube.Request) {
	for _, from := range a.served(r) {
		network, addr := a.networks[from.network], a.given[claimant{r.Name(), from.network, from.family}]
		if network.Settings.VIPs.Contains(addr) {
			continue
		}
		a.note(r, ReasonAddressNotInPool, "%s is not in the \"vips\" of %s any more, and stays because clients know it: add it there, "+
			"ask for another address by annotation %s, or delete its claim, Lease %s/%s, for a free one",
			addr, network.Name, kube.AnnotationIPs, kube.Namespace, placeOf(network, addr).Name())
	}
}

// refuse says why a Service lacks a VIP.
func (a *allocator) refuse(r kube.Request, reason, format string, args ...any) {
	a.refused[r.Name()] = append(a.refused[r.Name()],
		lb.Issue{Object: r.Object(), Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// note says what of a Service's wishes is not fulfilled, although it has its VIPs.
func (a *allocator) note(r kube.Request, reason, format string, args ...any) {
	a.noted[r.Name()] = append(a.noted[r.Name()],
		lb.Issue{Object: r.Object(), Reason: reason, Message: fmt.Sprintf(format, args...)})
}
