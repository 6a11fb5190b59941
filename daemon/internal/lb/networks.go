// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/sluice-lb/sluice/internal/netconf"
)

// Reasons of the issues that Compile finds. They are stable: people write alerts on them.
const (
	ReasonAddressInUse        = "AddressInUse"        // a VIP is the address of a pod or of this node
	ReasonDuplicateAddress    = "DuplicateAddress"    // two pods on one segment have one address
	ReasonFrontendTaken       = "FrontendTaken"       // two Services claim one address, protocol and port
	ReasonMasterDown          = "MasterDown"          // an interface of this node is down
	ReasonMasterOffload       = "MasterOffload"       // an interface of this node changes or diverts what it receives
	ReasonMasterMissing       = "MasterMissing"       // this node lacks an interface that it should have
	ReasonMACMissing          = "MACMissing"          // an endpoint's MAC is not known
	ReasonMixedKinds          = "MixedKinds"          // two networks on one master differ in what the kernel has once a master
	ReasonNoCandidates        = "NoCandidates"        // no node answers for a network's VIPs
	ReasonNodeMACMismatch     = "NodeMACMismatch"     // this node's facts give its master another MAC than it has
	ReasonNoCommonNode        = "NoCommonNode"        // Services that share a VIP want different nodes as its owner
	ReasonNotAttached         = "NotAttached"         // an endpoint on this node without an attachment
	ReasonPassthruAlone       = "PassthruAlone"       // a network shares the master of one in passthru mode
	ReasonPeerMACMissing      = "PeerMACMissing"      // a node's facts lack the MAC of its master
	ReasonSegmentMismatch     = "SegmentMismatch"     // one master, two names for its segment
	ReasonUnknownNetwork      = "UnknownNetwork"      // a VIP on a network that there is no NAD for
	ReasonUnsupportedLink     = "UnsupportedLink"     // a kind or mode of interface that is not served
	ReasonUnsupportedProtocol = "UnsupportedProtocol" // neither TCP nor UDP
)

// network is a Network as this node sees it.
type network struct {
	Network
	served bool // in this version; otherwise there is an issue on it
	link   Link // the master; its Index is 0 where this node does not have it
}

// keepsApart tells whether pods of a mode and their siblings meet on the wire alone. A pod in passthru mode has none.
func keepsApart(mode string) bool { return mode == "private" || mode == "vepa" }

// sharesMAC tells whether pods of a kind and mode have their master's MAC; the kernel keeps them equal, whichever changes.
func sharesMAC(kind, mode string) bool { return kind == "ipvlan" || mode == "passthru" }

// masterKind is what the pods of a master make of it; see Master.
type masterKind struct{ shared, apart, ipvlan, routed bool }

func (p *pass) noteKind(master int, kind, mode string) {
	k := p.kinds[master]
	k.shared = k.shared || sharesMAC(kind, mode)
	k.apart = k.apart || kind == "macvlan" && keepsApart(mode)
	k.ipvlan = k.ipvlan || kind == "ipvlan"
	k.routed = k.routed || kind == "ipvlan" && mode != "l2"
	p.kinds[master] = k
}

// noteKindsWithoutPods lets the networks tell where no pod does yet, or any more: what a peer still sends on to a pod must not
// be taken for a client's packet.
func (p *pass) noteKindsWithoutPods() {
	attached := maps.Clone(p.kinds)
	for _, n := range p.networks {
		if _, ok := attached[n.link.Index]; !ok && n.served && sharesMAC(n.Kind, n.Mode) {
			p.noteKind(n.link.Index, n.Kind, n.Mode)
		}
	}
}

// sortedAddrs gives addresses sorted, each once, IPv4 first.
func sortedAddrs(addrs []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, 0, len(addrs))
	for _, addr := range addrs {
		out = append(out, addr.Unmap())
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
		if err := netconf.Served(n.Kind, n.Mode); err != nil {
			p.report(object, ReasonUnsupportedLink, "%v", err)
			p.networks[n.Name] = network{Network: n}
			continue
		}
		link := p.linksByName[n.Master]
		if p.refused(object, link, n.Kind) {
			p.networks[n.Name] = network{Network: n}
			continue
		}
		p.networks[n.Name] = network{Network: n, served: true, link: link}
		p.checkNode(object, n, link)
		p.checkAlone(object, n)
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
			"node %s has no Ethernet interface %q although its facts list segment %q: bring it back, or correct the master or the facts",
			p.in.Node, n.Master, n.Segment)
	}
}

// checkAlone finds networks that could never have pods on one node at the same time.
func (p *pass) checkAlone(object string, n Network) {
	for _, other := range p.in.Networks {
		alone := n.Mode == "passthru" && other.Mode != n.Mode
		if other.Name != n.Name && other.Master == n.Master && alone {
			p.report(object, ReasonPassthruAlone, "mode is passthru on master %q, which network %s uses with mode %q: the kernel "+
				"attaches one pod in passthru mode, and no other beside it, so give the network a master of its own",
				n.Master, other.Name, other.Mode)
		}
		if n.Kind == "ipvlan" && other.Master == n.Master && (other.Kind != n.Kind || other.Mode != n.Mode) {
			p.report(object, ReasonMixedKinds, "it is ipvlan with mode %s on master %q, which network %s uses for %s with mode %s: "+
				"the kernel has one kind, and one mode of ipvlan, for all pods of a master, so give one network another master",
				n.Mode, n.Master, other.Name, other.Kind, other.Mode)
		}
	}
}

// compileMasters adds the interfaces under a network or under an attachment.
func (p *pass) compileMasters() {
	indexes := make(map[int]bool) // to whether pods or neighbours count on it
	for _, n := range p.networks {
		if n.served && n.link.Index != 0 {
			indexes[n.link.Index] = indexes[n.link.Index] || slices.Contains(p.candidates[n.Segment], p.in.Node)
		}
	}
	for _, pod := range p.state.Pods {
		indexes[pod.Master] = true
	}
	for index, needed := range indexes {
		link := p.linksByIndex[index]
		segment, ok := p.segments[link.Name]
		if !ok {
			segment = link.Name
		}
		m := Master{
			Index: index, Name: link.Name, Segment: segment, MAC: link.MAC, Up: link.Up, Addrs: sortedAddrs(link.Addrs),
			Shared: p.kinds[index].shared, Apart: p.kinds[index].apart, IPVlan: p.kinds[index].ipvlan,
			Routed: p.kinds[index].routed,
		}
		m.Addr = watchAddr(m.Addrs)
		p.state.Masters = append(p.state.Masters, m)
		p.compilePeers(m)
		if needed && !link.Up {
			p.report("Interface "+link.Name, ReasonMasterDown, "it is down or has no carrier, so neither the VIPs of node %s on "+
				"segment %s nor its pods there can be reached: set it up, or look at the cable and the switch", p.in.Node, segment)
		}
	}
}

// watchAddr chooses the address by which peers watch a master, of all of them, sorted: a link-local one of IPv6, which needs no
// addressing of the host; else the first.
func watchAddr(addrs []netip.Addr) netip.Addr {
	if i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }); i >= 0 {
		return addrs[i]
	}
	if len(addrs) == 0 {
		return netip.Addr{}
	}
	return addrs[0]
}

// compilePeers adds the masters of the other nodes on a master's segment, as they know this one: by the facts. Where a pod
// shares the master's MAC, what a peer sent on can be told from a client's packet in no other way.
func (p *pass) compilePeers(m Master) {
	for _, node := range p.in.Nodes {
		mac, ok := node.MACs[m.Segment]
		switch {
		case node.Name == p.in.Node:
			if ok && mac != m.MAC {
				p.report("Node "+node.Name, ReasonNodeMACMismatch, "its facts give MAC %s for segment %q, where its master %s has %s, "+
					"so peers may take what it sends on for a client's: correct the facts", mac, m.Segment, m.Name, m.MAC)
			}
		case ok:
			p.state.Peers = append(p.state.Peers, Peer{Master: m.Index, Node: node.Name, MAC: mac, Addr: node.Addrs[m.Segment]})
		case m.Shared && slices.Contains(node.Segments, m.Segment):
			p.report("Node "+node.Name, ReasonPeerMACMissing, "its facts give no MAC for segment %q, so node %s, where a pod "+
				"shares the MAC of master %s, takes what it sends on for a client's: add the MAC of its master",
				m.Segment, p.in.Node, m.Name)
		}
	}
}
