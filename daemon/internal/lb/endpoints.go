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

// local is the attachment of this node that has an address.
type local struct {
	pod        api.Pod
	attachment api.Key
	mac        ether.MAC
	attached   bool // else only reserved for it
}

// nodeSegment names a node's master on a segment.
type nodeSegment struct{ node, segment string }

// readAttachments adds the pods of this node to the State and indexes them.
func (p *pass) readAttachments() {
	sorted := slices.SortedFunc(slices.Values(p.in.Attachments), func(a, b api.Attachment) int {
		return cmp.Or(cmp.Compare(a.Pod.String(), b.Pod.String()), cmp.Compare(a.Key().String(), b.Key().String()))
	})
	p.pods = make(map[station4]local, len(sorted))
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
	}
	p.noteKindsWithoutPods()
}

// reserveAddrs notes which of an attachment's addresses are endpoints by it. Where two pods have one address, the controller
// has decided whose it is, for it knows which came first.
func (p *pass) reserveAddrs(a api.Attachment) {
	segment := p.segments[p.linksByIndex[a.MasterIndex].Name]
	for _, prefix := range a.Addresses {
		addr := prefix.Addr().Unmap()
		e := p.endpoints.holder(segmentAddr{segment, addr})
		if e == nil || e.Node != p.in.Node || !isOf(e, a.Pod) || e.MAC != a.MAC && !sharesMAC(a.Kind, a.Mode) {
			continue
		}
		at := station4{a.MasterIndex, addr}
		if _, ok := p.pods[at]; !ok {
			p.pods[at] = local{pod: a.Pod, attachment: a.Key()}
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
		if first, ok := p.pods[at]; ok && first.attachment != a.Key() {
			p.report(object, ReasonDuplicateAddress, "address %s of interface %s belongs to Pod %s already and is not used: "+
				"give each node a range of its own, or use an IPAM that knows the whole cluster", addr, a.IfName, first.pod)
			return true
		}
		p.pods[at] = local{pod: a.Pod, attachment: a.Key(), mac: a.MAC, attached: true}
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
	l := p.pods[station4{master, e.Addr}]
	return l.attached && l.mac == mac && isOf(e, l.pod)
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

// usable tells whether an endpoint can be a backend, and reports why not. The answer is the same on every node.
func (p *pass) usable(e *Endpoint, segment string) bool {
	object := "Pod " + e.Pod.String()
	if e.MAC.IsZero() {
		p.report(object, ReasonMACMissing, "address %s has no MAC in the pod's network-status, so no node can send to it: "+
			"the CNI plugin must report its interface's MAC", e.Addr)
		return false
	}
	held := p.endpoints.holder(segmentAddr{segment, e.Addr})
	if held == e || held.Pod == e.Pod && held.MAC == e.MAC && held.Node == e.Node {
		return true
	}
	if !e.Terminating {
		p.report(object, ReasonDuplicateAddress, "address %s belongs to Pod %s already and is not used: "+
			"give each node a range of its own, or use an IPAM that knows the whole cluster", e.Addr, held.Pod)
	}
	return false
}
