// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// Reasons of the issues that Compile finds. They are stable: people write alerts on them.
const (
	ReasonAddressInUse        = "AddressInUse"        // a VIP is the address of a pod or of this node
	ReasonDuplicateAddress    = "DuplicateAddress"    // two pods on one segment have one address
	ReasonFrontendTaken       = "FrontendTaken"       // two Services claim one address, protocol and port
	ReasonMasterMissing       = "MasterMissing"       // this node lacks an interface that it should have
	ReasonMACMissing          = "MACMissing"          // an endpoint's MAC is not known
	ReasonNoCandidates        = "NoCandidates"        // no node answers for a network's VIPs
	ReasonNotAttached         = "NotAttached"         // an endpoint on this node without an attachment
	ReasonSegmentMismatch     = "SegmentMismatch"     // one master, two names for its segment
	ReasonUnknownNetwork      = "UnknownNetwork"      // a VIP on a network that there is no NAD for
	ReasonUnsupportedIPFamily = "UnsupportedIPFamily" // IPv6
	ReasonUnsupportedLink     = "UnsupportedLink"     // anything but macvlan in bridge mode
	ReasonUnsupportedProtocol = "UnsupportedProtocol" // neither TCP nor UDP
)

// network is a Network as this node sees it.
type network struct {
	Network
	served bool // in this version; otherwise there is an issue on it
	link   Link // the master; its Index is 0 where this node does not have it
}

// supported tells whether the datapath can serve a kind of link. An empty mode is macvlan's own default.
func supported(kind, mode string) bool {
	return kind == "macvlan" && (mode == "bridge" || mode == "")
}

// only4 gives the addresses that this version serves, sorted.
func only4(addrs []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, 0, len(addrs))
	for _, addr := range addrs {
		if addr = addr.Unmap(); addr.Is4() {
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// readNetworks indexes the networks, and judges each.
func (p *pass) readNetworks() {
	sorted := slices.SortedFunc(slices.Values(p.in.Networks), func(a, b Network) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Master, b.Master), cmp.Compare(a.Segment, b.Segment),
			cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Mode, b.Mode))
	})
	p.networks = make(map[string]network, len(sorted))
	p.segments = make(map[string]string)
	namedBy := make(map[string]string) // the network that gave a master's segment its name
	for _, n := range sorted {
		if _, ok := p.networks[n.Name]; ok {
			continue
		}
		object := "NetworkAttachmentDefinition " + n.Name
		if !supported(n.Kind, n.Mode) {
			p.report(object, ReasonUnsupportedLink,
				"plugin %q with mode %q is not served in this version: use macvlan with mode bridge", n.Kind, n.Mode)
			p.networks[n.Name] = network{Network: n}
			continue
		}
		link := p.linksByName[n.Master]
		p.networks[n.Name] = network{Network: n, served: true, link: link}
		p.checkNode(object, n, link)
		switch segment, ok := p.segments[n.Master]; {
		case !ok:
			p.segments[n.Master] = n.Segment
			namedBy[n.Master] = n.Name
		case segment != n.Segment:
			p.report(object, ReasonSegmentMismatch,
				"segment %q differs from %q, which %s gives for the same master %q: write the same segment in both",
				n.Segment, segment, namedBy[n.Master], n.Master)
		}
	}
}

// checkNode compares what a network asks for with what the nodes' facts say.
func (p *pass) checkNode(object string, n Network, link Link) {
	nodes := p.candidates[n.Segment]
	if len(nodes) == 0 {
		p.report(object, ReasonNoCandidates, "no node's facts list segment %q, so no node answers for its VIPs", n.Segment)
	}
	if link.Index == 0 && slices.Contains(nodes, p.in.Node) {
		p.report(object, ReasonMasterMissing,
			"node %s has no Ethernet interface %q although its facts list segment %q: correct the master or the facts",
			p.in.Node, n.Master, n.Segment)
	}
}

// compileMasters adds the interfaces under a network or under an attachment.
func (p *pass) compileMasters() {
	indexes := make(map[int]bool)
	for _, n := range p.networks {
		if n.served && n.link.Index != 0 {
			indexes[n.link.Index] = true
		}
	}
	for _, pod := range p.state.Pods {
		indexes[pod.Master] = true
	}
	for index := range maps.Keys(indexes) {
		link := p.linksByIndex[index]
		segment, ok := p.segments[link.Name]
		if !ok {
			segment = link.Name
		}
		p.state.Masters = append(p.state.Masters, Master{
			Index: index, Name: link.Name, Segment: segment, MAC: link.MAC, Addrs: only4(link.Addrs),
		})
	}
}
