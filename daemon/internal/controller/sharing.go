// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/internal/netconf"
)

// scope is where a sharing key counts.
type scope struct {
	segment string
	key     string // with its namespace, unless the network lets namespaces share; empty: nothing is shared
}

func (a *allocator) scopeOf(r kube.Request, network kube.Network) scope {
	switch {
	case r.SharingKey == "":
		return scope{}
	case network.Settings.SharingAcrossNamespaces:
		return scope{network.Segment, r.SharingKey}
	}
	return scope{network.Segment, r.Service.Namespace + "/" + r.SharingKey}
}

// inOrder gives the sharers of a stored claim in the order in which they keep it: those with its key, then the oldest.
// So one that changes its key leaves the others where they are.
func (a *allocator) inOrder(c kube.Claim) []kube.Sharer {
	changed := func(s kube.Sharer) int {
		if network, ok := a.networks[s.Network]; ok && a.scopeOf(a.requests[s.Service], network).key != c.Key {
			return 1
		}
		return 0
	}
	return slices.SortedStableFunc(slices.Values(c.Sharers), func(x, y kube.Sharer) int {
		return cmp.Or(cmp.Compare(changed(x), changed(y)), cmp.Compare(a.age[x.Service], a.age[y.Service]))
	})
}

// canJoin tells whether a Service can share a VIP that is given already.
func (a *allocator) canJoin(r kube.Request, network kube.Network, addr netip.Addr) bool {
	c, of := a.claims[placeOf(network, addr)], a.scopeOf(r, network)
	if c == nil || of.key == "" || c.Key != of.key {
		return false
	}
	_, _, taken := a.clash(r, *c)
	return !taken
}

// clash finds a port that a Service has in common with one that has the VIP already, or with itself on another network.
func (a *allocator) clash(r kube.Request, c kube.Claim) (with string, port kube.Port, found bool) {
	for _, s := range c.Sharers {
		for _, port := range a.requests[s.Service].Ports() {
			if slices.Contains(r.Ports(), port) {
				return s.Service, port, true
			}
		}
	}
	return "", kube.Port{}, false
}

// giveShared lets a Service share the first VIP of its key in a pool where its ports are free.
func (a *allocator) giveShared(r kube.Request, network kube.Network, family corev1.IPFamily) bool {
	vips := pool(network, family)
	for _, where := range a.shared[a.scopeOf(r, network)] {
		if vips.Contains(where.Addr) && a.canJoin(r, network, where.Addr) {
			a.give(r, network, where.Addr)
			return true
		}
	}
	return false
}

// noteSharing says where a Service shares less than its key asks for. It depends on what is given alone, not on how that
// came about, so that it is said as long as it is true.
func (a *allocator) noteSharing(r kube.Request) {
	for _, from := range a.served(r) {
		network := a.networks[from.network]
		who := claimant{r.Name(), from.network, from.family}
		addr := a.given[who]
		c := a.claims[placeOf(network, addr)]
		if c.Key == "" {
			continue
		}
		a.notePorts(r, who, *c)
		first := a.firstOf(scope{network.Segment, c.Key}, pool(network, from.family))
		if first == nil || first.Addr == addr || slices.Contains(r.Addrs, addr) {
			continue
		}
		if with, port, taken := a.clash(r, *first); taken {
			a.note(r, ReasonSharingConflict, "%s, which has the same sharing key, is a VIP with %s of Service %s, so the Service has %s: "+
				"use another port to share it", first.Addr, port, with, addr)
		} else {
			a.note(r, ReasonNotShared, "%s has the same sharing key, and the Service keeps %s, which it had before: ask for %s by "+
				"annotation %s to share it", first.Addr, addr, first.Addr, kube.AnnotationIPs)
		}
	}
}

// firstOf gives the claim of a pool with the oldest Service that has a key.
func (a *allocator) firstOf(of scope, vips netconf.Pool) *kube.Claim {
	var first *kube.Claim
	oldest := len(a.age)
	for _, where := range a.shared[of] {
		for _, s := range a.claims[where].Sharers {
			if age := a.age[s.Service]; age < oldest && vips.Contains(where.Addr) {
				first, oldest = a.claims[where], age
			}
		}
	}
	return first
}

// notePorts says which ports of a VIP an older Service has. Those who share came with ports apart, so one of the two has
// changed since; that moves no VIP, and the nodes serve the older Service, as lb.Compile does.
func (a *allocator) notePorts(r kube.Request, who claimant, c kube.Claim) {
	for _, port := range r.Ports() {
		for _, s := range c.Sharers {
			if a.age[s.Service] >= a.age[r.Name()] || !slices.Contains(a.requests[s.Service].Ports(), port) {
				continue
			}
			a.unserved[who] = append(a.unserved[who], port)
			a.note(r, ReasonSharingConflict, "%s of %s is that of Service %s, which is older, and shares the VIP: use another port",
				port, c.Addr, s.Service)
			break
		}
	}
}
