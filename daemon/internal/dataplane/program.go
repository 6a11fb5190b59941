// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// The kinds of hook, as people call them.
const (
	kindTCX    = "tcx"
	kindClsact = "clsact"
)

// program is one that packets meet on a master. It is comparable: equal lists mean that nobody changed anything.
type program struct {
	kind string
	id   ebpf.ProgramID // 0: a filter that is no BPF program
	ours bool           // this agent's, or its predecessor's on the same pins

	// Of clsact alone.
	filter   string // kind of the filter: "bpf", "u32"
	priority uint16 // lower runs first
	protocol uint16 // EtherType that it is for
	handle   uint32
}

// identity is what the kernel tells of a loaded program.
type identity struct {
	name string
	maps []ebpf.MapID
}

// identify asks the kernel about a program. One that was unloaded meanwhile has no name and no maps.
func identify(id ebpf.ProgramID) identity {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return identity{}
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return identity{}
	}
	maps, _ := info.MapIDs()
	return identity{name: info.Name, maps: maps}
}

// isOurs tells whether a program works on our maps.
func (d *Dataplane) isOurs(id ebpf.ProgramID) bool {
	return slices.ContainsFunc(identify(id).maps, func(m ebpf.MapID) bool { return d.mapIDs[m] })
}

// isSluice tells whether a program is one of Sluice's, of whatever instance or version: by its name, and by the names
// of maps that nobody else would have together.
func (i identity) isSluice() bool {
	if i.name != "lb_ingress" && i.name != "lb_egress" {
		return false
	}
	known := 0
	for _, id := range i.maps {
		if name := mapName(id); name == "half_open" || name == "selections" || name == "local_backends" {
			known++
		}
	}
	return known > 1
}

// isOther tells whether a program is that of another instance of Sluice.
func (d *Dataplane) isOther(p program) bool {
	return !p.ours && identify(p.id).isSluice() && !d.isOurs(p.id)
}

func mapName(id ebpf.MapID) string {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return ""
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return ""
	}
	return info.Name
}

// String names a program as a person would look for it with bpftool or tc.
func (p program) String() string {
	switch {
	case p.kind == kindTCX:
		return fmt.Sprintf("program %q (id %d)", identify(p.id).name, p.id)
	case p.id != 0:
		return fmt.Sprintf("program %q (id %d, priority %d, handle %#x)", identify(p.id).name, p.id, p.priority, p.handle)
	}
	return fmt.Sprintf("filter %s (priority %d, handle %#x)", p.filter, p.priority, p.handle)
}
