// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/ether"
	"github.com/sluice-lb/sluice/internal/netconf"
)

// station is where frames of a pod come from: its MAC on a master.
type station struct {
	master int
	mac    ether.MAC
}

// local is a pod of this node.
type local struct {
	pod   api.Pod
	addrs []netip.Addr
}

// owner is the attachment that has an address of this node.
type owner struct{ pod, attachment string }

// segmentAddr is an address on a segment: one station's, or there is a conflict.
type segmentAddr struct {
	segment string
	addr    netip.Addr
}

// nodeSegment names a node's master on a segment.
type nodeSegment struct{ node, segment string }

// serviceNetwork names the endpoints of one Service on one network.
type serviceNetwork struct{ service, network string }

// readAttachments adds the pods of this node to the State and indexes them.
func (p *pass) readAttachments() {
	sorted := slices.SortedFunc(slices.Values(p.in.Attachments), func(a, b api.Attachment) int {
		return cmp.Or(cmp.Compare(a.Pod.String(), b.Pod.String()), cmp.Compare(a.Key().String(), b.Key().String()))
	})
	p.attached = make(map[station][]local, len(sorted))
	p.podAddrs = make(map[station4]owner, len(sorted))
	p.kinds = make(map[int]masterKind)
	for _, a := range sorted {
		p.reserveAddrs(a)
	}
	for _, a := range sorted {
		object := "Pod " + a.Pod.String()
		if err := netconf.Served(a.Kind, a.Mode); err != nil {
			p.report(object, ReasonUnsupportedLink, "interface %s: %v", a.IfName, err)
			continue
		}
		master, ok := p.linksByIndex[a.MasterIndex]
		if !ok {
			p.report(object, ReasonMasterMissing, "interface %s, attached below %s, has no master on node %s any more: delete "+
				"the pod, so that it is attached again", a.IfName, a.Master, p.in.Node)
			continue
		}
		if p.refused(object, master, a.Kind) {
			continue
		}
		if sharesMAC(a.Kind, a.Mode) {
			a.MAC = master.MAC
		}
		addrs := p.claimAddrs(object, a, master)
		p.state.Pods = append(p.state.Pods, Pod{
			Pod: a.Pod.String(), Attachment: a.Key().String(), Master: a.MasterIndex, MAC: a.MAC, Addrs: addrs, Netns: a.Netns,
			Private: a.Mode == "private",
		})
		p.noteKind(a.MasterIndex, a.Kind, a.Mode)
		at := station{a.MasterIndex, a.MAC}
		p.attached[at] = append(p.attached[at], local{a.Pod, addrs})
	}
	p.noteKindsWithoutPods()
}

// reserveAddrs notes which of an attachment's addresses are endpoints by it. Where two pods have one address, the controller
// has decided whose it is, for it knows which came first.
func (p *pass) reserveAddrs(a api.Attachment) {
	segment := p.segments[p.linksByIndex[a.MasterIndex].Name]
	for _, prefix := range a.Addresses {
		addr := prefix.Addr().Unmap()
		e, held := p.holders[segmentAddr{segment, addr}]
		if !held || e.Node != p.in.Node || !isOf(e, a.Pod) || e.MAC != a.MAC && !sharesMAC(a.Kind, a.Mode) {
			continue
		}
		if at := (station4{a.MasterIndex, addr}); p.podAddrs[at].pod == "" {
			p.podAddrs[at] = owner{a.Pod.String(), a.Key().String()}
		}
	}
}

// isOf tells whether an endpoint is of a pod as the runtime names it. The UID of a static pod differs between runtime and API,
// and some runtimes give none; names then decide.
func isOf(e *Endpoint, pod api.Pod) bool {
	return pod.UID != "" && pod.UID == e.Pod.UID || pod.String() == e.Pod.String()
}

// claimAddrs gives the addresses of an attachment that no other one on the same master has: the one whose endpoint it is, else
// the first.
func (p *pass) claimAddrs(object string, a api.Attachment, master Link) []netip.Addr {
	addrs := make([]netip.Addr, 0, len(a.Addresses)+1)
	for _, prefix := range a.Addresses {
		addrs = append(addrs, prefix.Addr())
	}
	if a.Kind == "macvlan" && a.MAC != master.MAC && slices.ContainsFunc(addrs, netip.Addr.Is6) {
		addrs = append(addrs, linkLocal(a.MAC))
	}
	return slices.DeleteFunc(sortedAddrs(addrs), func(addr netip.Addr) bool {
		at := station4{a.MasterIndex, addr}
		if first, ok := p.podAddrs[at]; ok && first.attachment != a.Key().String() {
			p.report(object, ReasonDuplicateAddress, "address %s of interface %s belongs to Pod %s already and is not used: "+
				"give each node a range of its own, or use an IPAM that knows the whole cluster", addr, a.IfName, first.pod)
			return true
		}
		p.podAddrs[at] = owner{a.Pod.String(), a.Key().String()}
		return false
	})
}

// linkLocal gives the link-local address that the kernel derives from a pod's own MAC (RFC 4291 appendix A). Attachments do
// not list it, because it may still be tentative when they are made; but the node, whose solicitations never reach a macvlan,
// needs it to answer what a pod sends from it. Where a pod forms its address otherwise, the node can talk to it by the
// others only; this one is nobody's then.
func linkLocal(mac ether.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5],
	})
}

// isAttached tells whether an endpoint that claims this node is one of its pods, by its address and MAC too.
func (p *pass) isAttached(e *Endpoint, master int, mac ether.MAC) bool {
	return slices.ContainsFunc(p.attached[station{master, mac}], func(l local) bool {
		return isOf(e, l.pod) && slices.Contains(l.addrs, e.Addr)
	})
}

// macOf gives the MAC that an endpoint has now. Where pods have their master's, it may have changed since they were attached,
// which is when network-status was written; the facts of its node tell.
func (p *pass) macOf(e *Endpoint, n network) ether.MAC {
	if !sharesMAC(n.Kind, n.Mode) {
		return e.MAC
	}
	if e.Node == p.in.Node {
		return n.link.MAC
	}
	if mac, ok := p.masterMACs[nodeSegment{e.Node, n.Segment}]; ok {
		return mac
	}
	return e.MAC
}

// readEndpoints indexes the slices and finds who holds each address of a segment.
func (p *pass) readEndpoints() {
	total := 0
	for i := range p.in.Slices {
		total += len(p.in.Slices[i].Endpoints)
	}
	p.endpoints = make(map[serviceNetwork][]*Slice, len(p.in.Slices))
	p.holders = make(map[segmentAddr]*Endpoint, total)
	for i := range p.in.Slices {
		slice := &p.in.Slices[i]
		n := p.networks[slice.Network]
		if !n.served {
			continue
		}
		of := serviceNetwork{slice.Service, slice.Network}
		p.endpoints[of] = append(p.endpoints[of], slice)
		for j := range slice.Endpoints {
			e := &slice.Endpoints[j]
			at := segmentAddr{n.Segment, e.Addr}
			if held, ok := p.holders[at]; !ok || compareHolders(e, held) < 0 {
				p.holders[at] = e
			}
		}
	}
}

// compareHolders orders endpoints that have one address: a pod that terminates gives way, as its address may have been
// allocated again; otherwise names decide, because all nodes must decide alike.
func compareHolders(a, b *Endpoint) int {
	return cmp.Or(
		compareBool(a.Terminating, b.Terminating),
		cmp.Compare(a.Pod.Namespace, b.Pod.Namespace),
		cmp.Compare(a.Pod.Name, b.Pod.Name),
		cmp.Compare(a.Pod.UID, b.Pod.UID),
		slices.Compare(a.MAC[:], b.MAC[:]),
		cmp.Compare(a.Node, b.Node),
	)
}

// compareBool orders false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// usable tells whether an endpoint can be a backend, and reports why not. The answer is the same on every node.
func (p *pass) usable(e *Endpoint, segment string) bool {
	object := "Pod " + e.Pod.String()
	if e.MAC.IsZero() {
		p.report(object, ReasonMACMissing, "address %s has no MAC in the pod's network-status, so no node can send to it: "+
			"the CNI plugin must report its interface's MAC", e.Addr)
		return false
	}
	held := p.holders[segmentAddr{segment, e.Addr}]
	if held == e || held.Pod == e.Pod && held.MAC == e.MAC && held.Node == e.Node {
		return true
	}
	if !e.Terminating {
		p.report(object, ReasonDuplicateAddress, "address %s belongs to Pod %s already and is not used: "+
			"give each node a range of its own, or use an IPAM that knows the whole cluster", e.Addr, held.Pod)
	}
	return false
}
