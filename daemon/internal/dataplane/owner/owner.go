// SPDX-License-Identifier: Apache-2.0

// Package owner writes the BPF map that says which VIPs this node answers for. It stands apart from the rest of the
// datapath because whoever decides on ownership needs no more than this.
package owner

import (
	"errors"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/daemon/internal/dataplane/mirror"
)

// VIP is an address on one of this node's masters.
type VIP struct {
	Master int // ifindex
	Addr   netip.Addr
}

// Table is the map of owned VIPs. It is not safe for concurrent use.
type Table struct {
	mirror *mirror.Mirror[bpf.LbAddressKey, bpf.LbOwner]
}

// New gives the table over the loaded map.
func New(m *ebpf.Map) *Table {
	return &Table{mirror: mirror.New("owners", mirror.Kernel[bpf.LbAddressKey, bpf.LbOwner]{Map: m})}
}

// Set makes this node answer for exactly these VIPs. What it loses stops before what it gains starts, so that a failure in
// between leaves too few answers rather than two.
func (t *Table) Set(owned []VIP) error {
	want := make(map[bpf.LbAddressKey]bpf.LbOwner, len(owned))
	for _, v := range owned {
		want[bpf.LbAddressKey{Addr: bpf.AddressFrom(v.Addr), Ifindex: uint32(v.Master)}] = bpf.LbOwner{}
	}
	t.mirror.SetAll(want)
	return errors.Join(t.mirror.Prune(), t.mirror.Put())
}
