// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"slices"

	"github.com/sluice-lb/sluice/daemon/internal/maglev"
)

// tableSeed is the same on every node and in every release: nodes must build the same tables.
const tableSeed = 0

// Table gives the frontend's Maglev table: positions in Backends. It is nil when no backend takes new flows. It is a function
// of the open backends' addresses and their positions, and nothing else. It is built at each call, because thousands of tables
// are too much to keep: the kernel has them.
func (f Frontend) Table() []uint32 {
	var ids []string
	var positions []uint32
	for i, b := range f.Backends {
		// Those that take no new flows leave no trace in the others' shares.
		if b.State.Open() {
			ids = append(ids, b.Addr.String())
			positions = append(positions, uint32(i))
		}
	}
	slots := maglev.Build(tableSeed, ids)
	for i, id := range slots {
		slots[i] = positions[id]
	}
	return slots
}

// isOpen tells whether any backend takes new flows.
func (f Frontend) isOpen() bool {
	return slices.ContainsFunc(f.Backends, func(b Backend) bool { return b.State.Open() })
}
