// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// giveAsked gives the addresses that a Service names. One that cannot be given leaves the Service what it has: nothing
// that works is lost to a wish.
func (a *allocator) giveAsked(r kube.Request) {
	asked := map[poolOf]bool{} // pools that an address was asked of
	for _, addr := range r.Addrs {
		if a.keepsOutside(r, addr) {
			continue
		}
		network, ok := a.networkOf(r, addr, asked)
		if !ok {
			continue
		}
		from := poolOf{network.Name, kube.FamilyOf(addr)}
		asked[from] = true
		where, who := placeOf(network, addr), claimant{r.Name(), from.network, from.family}
		if current, has := a.given[who]; has && current == addr {
			continue
		}
		keeps := ""
		if current, has := a.given[who]; has {
			keeps = "; until then it keeps " + current.String()
		}
		reason, why := a.whyTaken(r, network, where)
		switch {
		case reason != "":
			a.refuse(r, reason, "%s%s", why, keeps)
		case a.overlap[from] != "":
			a.refuse(r, ReasonPoolOverlap, "%s", a.whyOverlap(from))
		case r.FamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && !hasBoth(network):
			// giveFree says so.
		default:
			a.give(r, network, addr)
		}
	}
}

// whyTaken tells why a Service cannot have a place, or nothing.
func (a *allocator) whyTaken(r kube.Request, network kube.Network, where kube.Place) (reason, why string) {
	now, leaving := a.claims[where], a.leaving[where]
	switch {
	case a.canJoin(r, network, where.Addr):
	case now != nil && now.Key != "" && now.Key == a.scopeOf(r, network).key:
		with, port, _ := a.clash(r, *now)
		return ReasonSharingConflict, fmt.Sprintf("%s is a VIP with %s of Service %s: use another port to share it, or ask for "+
			"another address", where.Addr, port, with)
	case now != nil:
		return ReasonAddressInUse, fmt.Sprintf("%s is a VIP of %s: ask for another address", where.Addr, now.Users())
	case len(leaving.Sharers) > 0:
		return ReasonAddressInUse, fmt.Sprintf("%s is a VIP of %s: ask for another address", where.Addr, leaving.Users())
	case a.podHas[where] != nil:
		return ReasonAddressInUse, fmt.Sprintf("%s is the address of Pod %s: ask for another address",
			where.Addr, a.podHas[where].name())
	}
	return "", ""
}

// hasBoth tells whether a network has VIPs of both families.
func hasBoth(network kube.Network) bool {
	return !network.Settings.VIPs.IPv4().IsEmpty() && !network.Settings.VIPs.IPv6().IsEmpty()
}

// keepsOutside tells whether a Service has an address that it asks for although its pool does not have it any more.
func (a *allocator) keepsOutside(r kube.Request, addr netip.Addr) bool {
	return slices.ContainsFunc(r.Networks, func(name string) bool {
		return a.given[claimant{r.Name(), name, kube.FamilyOf(addr)}] == addr && !a.networks[name].Settings.VIPs.Contains(addr)
	})
}

// networkOf finds the network, among those of the request, that an address is asked of.
func (a *allocator) networkOf(r kube.Request, addr netip.Addr, asked map[poolOf]bool) (kube.Network, bool) {
	full := ""
	for _, network := range a.usable(r) {
		switch {
		case !a.may(r, network, addr):
		case asked[poolOf{network.Name, kube.FamilyOf(addr)}]:
			full = network.Name
		default:
			return network, true
		}
	}
	if full != "" {
		a.refuse(r, ReasonTooManyAddresses, "%s is one address more than the Service can have on %s: remove it", addr, full)
	} else {
		a.refuse(r, ReasonAddressNotInPool, "%s is in the \"vips\" of none of the Service's networks: "+
			"ask for an address of a pool, or for none", addr)
	}
	return kube.Network{}, false
}

// giveFree gives the networks that lack a VIP the first free one, and says why if there is none.
func (a *allocator) giveFree(r kube.Request) {
	for _, name := range r.Networks {
		network, exists := a.networks[name]
		switch {
		case len(a.missing(r, name)) == 0:
		case !exists && a.known[name]:
			a.refuse(r, ReasonNetworkNotFound, "NetworkAttachmentDefinition %s has no usable chain with sluice: "+
				"add {\"type\": \"sluice\", \"vips\": [...]} after macvlan or ipvlan, or correct what its own issue says", name)
		case !exists:
			a.refuse(r, ReasonNetworkNotFound, "there is no NetworkAttachmentDefinition %s: create it, or correct the "+
				"Service's annotation (a name without a namespace is in the Service's own)", name)
		case !network.Settings.AllowsNamespace(r.Service.Namespace):
			a.refuse(r, ReasonNamespaceNotAllowed, "%s gives no VIP to namespace %s: add it to \"allowedNamespaces\", "+
				"or use another network", name, r.Service.Namespace)
		default:
			a.giveFamilies(r, network)
		}
	}
}

// giveFamilies gives the families that a Service lacks on a network, as its policy wants.
func (a *allocator) giveFamilies(r kube.Request, network kube.Network) {
	for _, family := range a.missing(r, network.Name) {
		if !a.wishes(r, family) && a.overlap[poolOf{network.Name, family}] == "" && !a.giveShared(r, network, family) {
			a.giveFirst(r, network, family)
		}
	}
	missing := a.missing(r, network.Name)
	if len(missing) > 0 && r.FamilyPolicy == corev1.IPFamilyPolicyRequireDualStack {
		a.takeBack(r, network)
	}
	for _, family := range missing {
		issue, told := a.whyWithout(r, network, family)
		if told {
			continue
		}
		if a.lacks(r, network.Name) {
			a.refused[r.Name()] = append(a.refused[r.Name()], issue)
		} else {
			issue.Message += "; until then the Service does without, as spec.ipFamilyPolicy " + string(r.FamilyPolicy) + " lets it"
			a.noted[r.Name()] = append(a.noted[r.Name()], issue)
		}
	}
}

// whyWithout tells why a network does not give a family, unless something else tells it.
func (a *allocator) whyWithout(r kube.Request, network kube.Network, family corev1.IPFamily) (issue lb.Issue, told bool) {
	issue.Object = r.Object()
	vips := pool(network, family)
	switch {
	case vips.IsEmpty():
		issue.Reason = ReasonNoPool
		issue.Message = fmt.Sprintf("%s has no %s \"vips\": add a range such as %q to its sluice element",
			network.Name, family, rangeExample[family])
		if other := pool(network, otherFamily[family]); len(r.Families) == 1 && !other.IsEmpty() {
			issue.Message += fmt.Sprintf(", or ask for %s by annotation %s", otherFamily[family], kube.AnnotationIPFamilies)
		}
	case a.wishes(r, family):
		return issue, true
	case a.overlap[poolOf{network.Name, family}] != "":
		issue.Reason, issue.Message = ReasonPoolOverlap, a.whyOverlap(poolOf{network.Name, family})
	default:
		issue.Reason = ReasonPoolExhausted
		issue.Message = fmt.Sprintf("all VIPs of %s (%s) are taken: widen its \"vips\", or delete a Service", network.Name, vips)
	}
	return issue, false
}

var (
	rangeExample = map[corev1.IPFamily]string{
		corev1.IPv4Protocol: "192.168.20.240-192.168.20.250", corev1.IPv6Protocol: "fd00:20::f0/124",
	}
	otherFamily = map[corev1.IPFamily]corev1.IPFamily{
		corev1.IPv4Protocol: corev1.IPv6Protocol, corev1.IPv6Protocol: corev1.IPv4Protocol,
	}
)

// giveFirst gives the first free address of a pool, if there is one. It passes taken ones only, so that the size of a
// pool does not matter, and asks of each but once, so that the number of Services does not either.
func (a *allocator) giveFirst(r kube.Request, network kube.Network, family corev1.IPFamily) {
	from := poolOf{network.Name, family}
	next := a.next[from]
	for addr := range pool(network, family).All() {
		if addr.Less(next) {
			continue
		}
		a.next[from] = addr
		if a.isFree(placeOf(network, addr)) {
			a.give(r, network, addr)
			return
		}
	}
}

// takeBack leaves a Service what it had on a network before this plan.
func (a *allocator) takeBack(r kube.Request, network kube.Network) {
	for _, family := range r.Families {
		who := claimant{r.Name(), network.Name, family}
		now, has := a.given[who]
		before, had := a.held[who]
		if !has || had && now == before {
			continue
		}
		if had {
			a.give(r, network, before)
		} else {
			a.leave(who, placeOf(network, now))
		}
		delete(a.leaving, placeOf(network, now)) // it never had it
		clear(a.next)
	}
}

// missing gives the families that a Service has no VIP of on a network.
func (a *allocator) missing(r kube.Request, network string) []corev1.IPFamily {
	return slices.DeleteFunc(slices.Clone(r.Families), func(family corev1.IPFamily) bool {
		_, has := a.given[claimant{r.Name(), network, family}]
		return has
	})
}

// wishes tells whether a Service asks for an address of a family that it has not got. While it does, no other is given in
// its place.
func (a *allocator) wishes(r kube.Request, family corev1.IPFamily) bool {
	return r.Refused || slices.ContainsFunc(r.Addrs, func(addr netip.Addr) bool {
		return kube.FamilyOf(addr) == family && !a.hasAnywhere(r, addr)
	})
}

func (a *allocator) hasAnywhere(r kube.Request, addr netip.Addr) bool {
	return slices.ContainsFunc(r.Networks, func(name string) bool {
		return a.given[claimant{r.Name(), name, kube.FamilyOf(addr)}] == addr
	})
}

func (a *allocator) whyOverlap(p poolOf) string {
	return fmt.Sprintf("the \"vips\" of %s and %s overlap in part: make them equal, or apart", p.network, a.overlap[p])
}
