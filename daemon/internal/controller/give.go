// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"net/netip"
	"slices"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// giveAsked gives the addresses that a Service names. One that cannot be given leaves the Service what it has: nothing
// that works is lost to a wish.
func (a *allocator) giveAsked(r kube.Request) {
	asked := map[string]bool{} // networks that have an address that was asked for
	for _, addr := range r.Addrs {
		network, ok := a.poolOf(r, addr, asked)
		if !ok {
			continue
		}
		asked[network.Name] = true
		where, who := place{network.Segment, addr}, claimant{r.Name(), network.Name}
		if current, has := a.given[who]; has && current == addr {
			continue
		}
		keeps := ""
		if current, has := a.given[who]; has {
			keeps = "; until then it keeps " + current.String()
		}
		holder, used := a.taken[where]
		user, onPod := a.podHas[where]
		switch {
		case used && holder.claimant != who:
			a.refuse(r, ReasonAddressInUse, "%s is a VIP of Service %s on %s: ask for another address%s",
				addr, holder.service, holder.network, keeps)
		case onPod:
			a.refuse(r, ReasonAddressInUse, "%s is the address of Pod %s: ask for another address%s", addr, user.name(), keeps)
		case a.overlap[network.Name] != "":
			a.refuseOverlap(r, network)
		default:
			a.give(r, network, addr)
		}
	}
}

// poolOf finds the network, among those of the request, that an address is asked of.
func (a *allocator) poolOf(r kube.Request, addr netip.Addr, asked map[string]bool) (kube.Network, bool) {
	full := ""
	for _, network := range a.usable(r) {
		switch {
		case !a.may(r, network, addr):
		case asked[network.Name]:
			full = network.Name
		default:
			return network, true
		}
	}
	if full != "" {
		a.refuse(r, ReasonTooManyAddresses, "%s is one address more than the Service can have on %s: remove it", addr, full)
	} else if r.IPv4 {
		a.refuse(r, ReasonAddressNotInPool, "%s is in the \"vips\" of none of the Service's networks: "+
			"ask for an address of a pool, or for none", addr)
	}
	return kube.Network{}, false
}

// giveFree gives the networks without an address the first free one, and says why if there is none.
func (a *allocator) giveFree(r kube.Request) {
	// While a wish is unfulfilled, nothing else is given in its place.
	wish := r.Refused || slices.ContainsFunc(r.Addrs, func(addr netip.Addr) bool { return !a.hasAnywhere(r, addr) })
	for _, name := range r.Networks {
		network, exists := a.networks[name]
		_, has := a.given[claimant{r.Name(), name}]
		switch {
		case has:
		case !exists && a.known[name]:
			a.refuse(r, ReasonNetworkNotFound, "NetworkAttachmentDefinition %s has no usable chain with sluice: "+
				"add {\"type\": \"sluice\", \"vips\": [...]} after macvlan, or correct what its own issue says", name)
		case !exists:
			a.refuse(r, ReasonNetworkNotFound, "there is no NetworkAttachmentDefinition %s: create it, or correct the "+
				"Service's annotation (a name without a namespace is in the Service's own)", name)
		case !network.Settings.AllowsNamespace(r.Service.Namespace):
			a.refuse(r, ReasonNamespaceNotAllowed, "%s gives no VIP to namespace %s: add it to \"allowedNamespaces\", "+
				"or use another network", name, r.Service.Namespace)
		case !r.IPv4 || wish: // the reason is told already
		case network.Settings.VIPs.IPv4().IsEmpty():
			a.refuse(r, ReasonNoPool, "%s has no IPv4 \"vips\": add a range such as %q to its sluice element",
				name, "192.168.20.240-192.168.20.250")
		case a.overlap[name] != "":
			a.refuseOverlap(r, network)
		case !a.giveFirst(r, network):
			a.refuse(r, ReasonPoolExhausted, "all VIPs of %s (%s) are taken: widen its \"vips\", or delete a Service",
				name, network.Settings.VIPs.IPv4())
		}
	}
}

func (a *allocator) giveFirst(r kube.Request, network kube.Network) bool {
	for addr := range network.Settings.VIPs.IPv4().All() {
		where := place{network.Segment, addr}
		_, used := a.taken[where]
		_, onPod := a.podHas[where]
		if !used && !onPod {
			a.give(r, network, addr)
			return true
		}
	}
	return false
}

func (a *allocator) hasAnywhere(r kube.Request, addr netip.Addr) bool {
	return slices.ContainsFunc(r.Networks, func(name string) bool {
		return a.given[claimant{r.Name(), name}] == addr
	})
}

func (a *allocator) refuseOverlap(r kube.Request, network kube.Network) {
	a.refuse(r, ReasonPoolOverlap, "the \"vips\" of %s and %s overlap in part: make them equal, or apart",
		network.Name, a.overlap[network.Name])
}
