// SPDX-License-Identifier: Apache-2.0

// Package lb is the model of the load balancer: what the sources know (Snapshot), what the datapath shall do (State), and
// Compile, the pure function from the one to the other. It must not read a clock, the kernel, a file or a logger.
package lb

import (
	"net/netip"
	"slices"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/ether"
)

// Snapshot is everything that a node knows when it compiles. It is immutable once published: sources replace slices, they
// do not change them.
type Snapshot struct {
	Node        string           // this node's name
	Services    []Service        // Services of our class
	Networks    []Network        // NADs whose chain holds sluice
	Slices      []Slice          // our EndpointSlices
	Nodes       []Node           // facts about every node, this one included
	Links       []Link           // this node's interfaces
	Attachments []api.Attachment // this node's pod interfaces; the MasterIndex of one that lost its master is 0
	Issues      []Issue          // what the sources could not use; Compile passes them on
}

// Service is a Service of our class with the VIPs that the controller gave it.
type Service struct {
	Namespace string
	Name      string
	UID       string
	Created   int64 // seconds since 1970: the older of two Services has what both claim; 0 if nobody knows
	VIPs      []ServiceVIP
	Ports     []ServicePort
	Clients   Clients
	Local     bool // externalTrafficPolicy Local: a client's packets shall not go on to another node
}

// equal tells whether two Services are the same in every field.
func (s Service) equal(o Service) bool {
	return s.Namespace == o.Namespace && s.Name == o.Name && s.UID == o.UID && s.Created == o.Created &&
		slices.Equal(s.VIPs, o.VIPs) && slices.Equal(s.Ports, o.Ports) && s.Clients.Equal(o.Clients) && s.Local == o.Local
}

// Clients tells whose new flows a Service takes, and whether it keeps a client with one pod.
type Clients struct {
	Restricted bool           `json:"restricted,omitempty"` // to Ranges; without any, nobody is let in
	Ranges     []netip.Prefix `json:"ranges,omitempty"`     // masked; of either family
	Affinity   uint32         `json:"affinity,omitempty"`   // seconds after a client's last new flow; 0: none
}

// Equal tells whether they are the same in every field.
func (c Clients) Equal(o Clients) bool {
	return c.Restricted == o.Restricted && c.Affinity == o.Affinity && slices.Equal(c.Ranges, o.Ranges)
}

// ServiceVIP is one address of a Service on one network.
type ServiceVIP struct {
	Network string // namespace/name of the NAD
	Addr    netip.Addr
}

// ServicePort is one port of a Service. Name joins it with the ports of slices; it is empty for a Service's only port.
type ServicePort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// Network is a NAD whose plugin chain holds sluice.
type Network struct {
	Name    string // namespace/name
	Segment string // the layer-2 network below it: the NAD's "segment", by default the master's name
	Master  string // interface that the chain's first plugin names
	Kind    string // "macvlan" or "ipvlan"
	Mode    string // of that kind, such as "bridge"
}

// Slice is one of our EndpointSlices: endpoints of one Service on one network that agree on the target ports.
type Slice struct {
	Service   string // namespace/name
	Network   string // namespace/name
	Ports     []ServicePort
	Endpoints []Endpoint
}

// Endpoint is one pod address on a network.
type Endpoint struct {
	Addr        netip.Addr
	MAC         ether.MAC
	Node        string
	Pod         api.Pod
	Serving     bool // ready, whether or not the pod terminates (EndpointConditions.Serving)
	Terminating bool
}

// Node is what peers need to know of a node.
type Node struct {
	Name     string
	Segments []string // on which it is a candidate for VIPs
	// MACs are its masters', by segment. A node that is no candidate sends its own pods' packets on too.
	MACs map[string]ether.MAC
	// Addrs are those of its masters by which peers watch it, by segment. One without is watched by nobody there.
	Addrs map[string]netip.Addr
}

// Link is one interface of this node.
type Link struct {
	Name  string
	Index int
	MAC   ether.MAC
	MTU   int
	Up    bool // administratively up and with carrier
	Addrs []netip.Addr
	// Lower are the indexes of the interfaces that its frames come through: of a VLAN its parent, of a bond its cards.
	Lower []int
	// Offloads are those of the interface that are on and that Compile has to know of.
	Offloads []Offload
	// Epoch is another number after frames could not pass for a moment, and after another interface took the index: what
	// was announced there, and what lay above it, may be lost. A number never comes back.
	Epoch uint64
}

// Offload is something that an interface does to frames before programs see them, by the kernel's name for it
// (netdev_features_strings, net/ethtool/common.c).
type Offload string

const (
	// LRO (large receive offload) joins segments in a way that cannot be undone: what arrives can be delivered, and not be
	// sent on.
	LRO Offload = "rx-lro"
	// L2Forward gives frames for a macvlan to it straight away, past the programs of its master.
	L2Forward Offload = "l2-fwd-offload"
)
