// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/netip"

	"github.com/sluice-lb/sluice/internal/ether"
)

// Service is one balanced port of one Service on one VIP, as this node balances it: a row of `sluicectl get lb`.
type Service struct {
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	Network   string     `json:"network"` // namespace/name of the NAD
	VIP       netip.Addr `json:"vip"`
	Port      uint16     `json:"port"`
	Protocol  string     `json:"protocol"`  // "TCP" or "UDP"
	Algorithm string     `json:"algorithm"` // "maglev"
	Mode      string     `json:"mode"`      // "direct": the client's address is kept
	Owner     string     `json:"owner"`     // node that answers ARP or ND for the VIP; empty if there is no candidate
	Master    string     `json:"master"`    // this node's interface under the network
	State     string     `json:"state"`     // "active", "no-backends" or StateMasterDown
	Counters  Counters   `json:"counters"`  // sum over the backends
	Backends  []Backend  `json:"backends"`
}

// StateMasterDown is the state of a Service whose master on this node is down: nothing passes there, whatever its backends
// are.
const StateMasterDown = "master-down"

// Backend is one endpoint of a Service.
type Backend struct {
	Pod      string     `json:"pod"` // namespace/name
	Node     string     `json:"node"`
	Address  netip.Addr `json:"address"`
	MAC      ether.MAC  `json:"mac"`
	Port     uint16     `json:"targetPort"`
	Weight   int        `json:"weight"`
	State    string     `json:"state"` // "active", "draining", "unattached" or "elsewhere"
	Local    bool       `json:"local"` // the pod runs on this node
	Counters Counters   `json:"counters"`
}

// Counters is what this node sent towards a backend since the backend was programmed. Replies do not count: they leave
// by the backend's node and never pass the owner.
type Counters struct {
	Connections uint64 `json:"connections"` // flows that this node placed on the backend
	Packets     uint64 `json:"packets"`     // GSO segments count as one packet, as the kernel sees them
	Bytes       uint64 `json:"bytes"`       // frame lengths, Ethernet header included
}

// Add sums two sets of counters.
func (c Counters) Add(o Counters) Counters {
	return Counters{
		Connections: c.Connections + o.Connections,
		Packets:     c.Packets + o.Packets,
		Bytes:       c.Bytes + o.Bytes,
	}
}
