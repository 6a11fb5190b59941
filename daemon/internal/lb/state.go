// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/sluice-lb/sluice/internal/ether"
)

// State is what the datapath of this node shall do. It is a value: equal Snapshots compile to equal States, in sorted
// order, so that a diff of two States is a diff of intent.
type State struct {
	Node      string     `json:"node"`
	Masters   []Master   `json:"masters"`
	Pods      []Pod      `json:"pods"`
	Peers     []Peer     `json:"peers"`
	VIPs      []VIP      `json:"vips"`
	Frontends []Frontend `json:"frontends"`
	Issues    []Issue    `json:"issues"`
}

// Equal tells whether two States want the same.
func (s State) Equal(o State) bool {
	if !slices.EqualFunc(s.Frontends, o.Frontends, Frontend.Equal) {
		return false
	}
	s.Frontends, o.Frontends = nil, nil
	return reflect.DeepEqual(s, o)
}

// Master is an interface that carries our programs.
type Master struct {
	Index   int          `json:"index"`
	Name    string       `json:"name"`
	Segment string       `json:"segment"`
	MAC     ether.MAC    `json:"mac"`
	Up      bool         `json:"up"`    // without it nothing passes; programs and flows wait
	Addrs   []netip.Addr `json:"addrs"` // the node's own addresses on it, for local pods that talk to the node
	// Addr is the one by which peers watch this node; the zero Addr if it has none.
	Addr netip.Addr `json:"addr,omitzero"`
	// Shared tells that local pods have the master's MAC, and get what is sent to it: macvlan in passthru mode, and ipvlan.
	Shared bool `json:"shared,omitempty"`
	// Apart tells that a local pod and its siblings meet on the wire alone: macvlan in private or vepa mode.
	Apart bool `json:"apart,omitempty"`
	// IPVlan tells that its pods are ipvlans: what they send each other does not come by.
	IPVlan bool `json:"ipvlan,omitempty"`
	// Routed tells that they hear no ARP and no Neighbor Discovery, in modes l3 and l3s: the node answers for them.
	Routed bool `json:"routed,omitempty"`
}

// Pod is a local attachment, known to the datapath by its MAC and addresses.
type Pod struct {
	Pod        string       `json:"pod"` // namespace/name
	Attachment string       `json:"attachment"`
	Master     int          `json:"master"` // ifindex
	MAC        ether.MAC    `json:"mac"`
	Addrs      []netip.Addr `json:"addrs"`
	Netns      string       `json:"netns"`
	// Private tells that it shall not talk to the other pods below its master: macvlan in private mode.
	Private bool `json:"private,omitempty"`
}

// Peer is the master of another node, seen on one of ours: it balances too, and sends packets on in its own name.
type Peer struct {
	Master int       `json:"master"` // ifindex of ours
	Node   string    `json:"node"`
	MAC    ether.MAC `json:"mac"`
	// Addr is the one by which this node watches it; the zero Addr if its facts give none.
	Addr netip.Addr `json:"addr,omitzero"`
}

// VIP is an address that nodes answer for. Candidates are ranked; the first owns it as long as ownership is static.
type VIP struct {
	Master     int        `json:"master"` // ifindex
	Segment    string     `json:"segment"`
	Addr       netip.Addr `json:"addr"`
	Candidates []string   `json:"candidates"`
	Owned      bool       `json:"owned"` // by this node
}

// Frontend is one VIP, protocol and port, with the backends behind it.
type Frontend struct {
	Service  string         `json:"service"` // namespace/name
	Network  string         `json:"network"` // namespace/name
	Master   int            `json:"master"`  // ifindex
	Protocol Protocol       `json:"protocol"`
	Addr     netip.AddrPort `json:"addr"`
	Clients  Clients        `json:"clients,omitzero"`
	// Local tells that its Service has externalTrafficPolicy Local: a node that has pods of it sends new flows to them alone.
	// Tables differ by node then, so connections do not survive a change of the owner.
	Local    bool      `json:"local,omitempty"`
	Backends []Backend `json:"backends"` // sorted by address and port: the identity that all nodes agree on
}

// Equal tells whether they are the same in every field. Where States share their backends, it costs a look.
func (f Frontend) Equal(o Frontend) bool {
	shared := len(f.Backends) == len(o.Backends) && (len(f.Backends) == 0 || &f.Backends[0] == &o.Backends[0])
	return f.Service == o.Service && f.Network == o.Network && f.Master == o.Master && f.Protocol == o.Protocol &&
		f.Addr == o.Addr && f.Clients.Equal(o.Clients) && f.Local == o.Local && (shared || slices.Equal(f.Backends, o.Backends))
}

// Backend is one endpoint of a Frontend.
type Backend struct {
	Addr  netip.AddrPort `json:"addr"`
	MAC   ether.MAC      `json:"mac"`
	Node  string         `json:"node"`
	Pod   string         `json:"pod"` // namespace/name
	Local bool           `json:"local"`
	State BackendState   `json:"state"`
}

// BackendState tells what a backend may receive.
type BackendState string

const (
	// BackendActive takes new flows.
	BackendActive BackendState = "active"
	// BackendDraining keeps the flows that it has: its pod is not ready or terminates. On the pod's own node it is no
	// backend any more when it has lost its attachment.
	BackendDraining BackendState = "draining"
	// BackendUnattached claims this node, but no attachment of this node has its address and MAC. It holds its place in
	// the table, because all nodes must build the same one.
	BackendUnattached BackendState = "unattached"
	// BackendElsewhere keeps the flows that it has: it is on another node, and this one has pods of its own of a Service
	// with externalTrafficPolicy Local.
	BackendElsewhere BackendState = "elsewhere"
)

// Open tells whether a backend has a place in the table.
func (s BackendState) Open() bool { return s == BackendActive || s == BackendUnattached }

// Protocol is an IP protocol number (IANA).
type Protocol uint8

// The protocols that the datapath balances.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// String gives the name that Kubernetes uses.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// MarshalText writes the name that Kubernetes uses.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the name of a protocol that the datapath balances, as Kubernetes writes it.
func (p *Protocol) UnmarshalText(text []byte) error {
	for _, known := range []Protocol{TCP, UDP} {
		if string(text) == known.String() {
			*p = known
			return nil
		}
	}
	return fmt.Errorf("read protocol %q: want TCP or UDP", text)
}

// Issue is something wrong with one object. It is reported once on that object and never stops a sync.
type Issue struct {
	Object  string `json:"object"`  // kind namespace/name
	Reason  string `json:"reason"`  // CamelCase, stable
	Message string `json:"message"` // names the field and the remedy
	// VIP is the one that the issue is about, unless it is about none, or about several.
	VIP netip.Addr `json:"vip,omitzero"`
}

// String gives one readable line.
func (i Issue) String() string { return fmt.Sprintf("%s: %s: %s", i.Object, i.Reason, i.Message) }
