// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bpf"
)

// clsactHook attaches by cls_bpf filters in direct-action mode. A filter is ours if it has our name and works on our
// maps; no other is ever replaced or deleted. The qdisc stays when the last filter goes: others may be about to use it.
//
// The kernel runs filters by priority, and those of one priority, which must be of one kind and protocol, latest first
// (cls_bpf_change in net/sched/cls_bpf.c). So the first place is a new filter at priority 1, unless a filter of another
// kind is there: then it is the first priority behind that.
type clsactHook struct {
	isOurs func(ebpf.ProgramID) bool
}

const (
	clsactPriority = 1
	clsactHandle   = 0x51 // of the first filter; the next free one where a new filter runs before the former
	clsactPrefix   = "sluice_"
	clsactKind     = "bpf"
)

var _ hook = clsactHook{}

func (c clsactHook) attach(ifindex int, dir bpf.LbDirection, prog *ebpf.Program) error {
	if err := addClsact(ifindex); err != nil {
		return err
	}
	chain, err := c.programs(ifindex, dir)
	if err != nil {
		return err
	}
	filter := c.newFilter(ifindex, dir, earliest(chain))
	filter.Fd = prog.FD()
	install := netlink.FilterReplace
	// Ours is as early as can be if nothing of that priority runs before it.
	first := slices.IndexFunc(chain, func(p program) bool { return p.priority >= filter.Priority })
	if first >= 0 && chain[first].ours {
		filter.Priority, filter.Handle = chain[first].priority, chain[first].handle
	} else {
		install = netlink.FilterAdd // which never replaces
		for slices.ContainsFunc(chain, at(filter)) {
			filter.Handle++
		}
	}
	if err := install(filter); err != nil {
		return fmt.Errorf("attach clsact %s to interface %d at priority %d: %w", directionName(dir), ifindex,
			filter.Priority, err)
	}
	return c.remove(ifindex, dir, slices.DeleteFunc(chain, func(p program) bool { return !p.ours || at(filter)(p) }))
}

// at tells whether a program's filter has the priority and handle of another.
func at(filter *netlink.BpfFilter) func(program) bool {
	return func(p program) bool { return p.priority == filter.Priority && p.handle == filter.Handle }
}

// earliest gives the first priority at which the kernel takes our kind of filter.
func earliest(chain []program) uint16 {
	priority := uint16(clsactPriority)
	for _, p := range chain {
		if p.priority == priority && (p.filter != clsactKind || p.protocol != unix.ETH_P_ALL) {
			priority++
		}
	}
	return priority
}

// addClsact makes the qdisc that both hooks are part of.
func addClsact(ifindex int) error {
	err := netlink.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: ifindex,
			Handle:    netlink.MakeHandle(0xffff, 0),
			Parent:    netlink.HANDLE_CLSACT,
		},
		QdiscType: "clsact",
	})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact to interface %d: %w", ifindex, err)
	}
	if err == nil {
		return nil
	}
	qdiscs, err := netlinksafe.QdiscList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}})
	if err != nil {
		return fmt.Errorf("list the qdiscs of interface %d: %w", ifindex, err)
	}
	for _, q := range qdiscs {
		if q.Attrs().LinkIndex == ifindex && q.Type() == "ingress" {
			return fmt.Errorf("interface %d has somebody else's qdisc \"ingress\", which leaves no room for clsact and "+
				"knows no egress: have its owner use clsact, or run a kernel with tcx (6.6 or later)", ifindex)
		}
	}
	return nil
}

func (c clsactHook) detach(ifindex int, dir bpf.LbDirection) error {
	chain, err := c.programs(ifindex, dir)
	if err != nil {
		return err
	}
	return c.remove(ifindex, dir, slices.DeleteFunc(chain, func(p program) bool { return !p.ours }))
}

// remove takes filters of ours off.
func (c clsactHook) remove(ifindex int, dir bpf.LbDirection, ours []program) error {
	var errs []error
	for _, p := range ours {
		filter := c.newFilter(ifindex, dir, p.priority)
		filter.Handle = p.handle
		if err := netlink.FilterDel(filter); err != nil && !isGone(err) {
			errs = append(errs, fmt.Errorf("detach clsact %s from interface %d: %w", directionName(dir), ifindex, err))
		}
	}
	return errors.Join(errs...)
}

func (c clsactHook) attached() ([]int, error) {
	links, err := netlinksafe.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var indexes []int
	for _, l := range links {
		for _, dir := range directions {
			chain, err := c.programs(l.Attrs().Index, dir)
			if err != nil {
				return nil, err
			}
			if slices.ContainsFunc(chain, func(p program) bool { return p.ours }) {
				indexes = append(indexes, l.Attrs().Index)
				break
			}
		}
	}
	return indexes, nil
}

func (c clsactHook) programs(ifindex int, dir bpf.LbDirection) ([]program, error) {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	filters, err := netlinksafe.FilterList(link, clsactParent(dir))
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list clsact filters of interface %d: %w", ifindex, err)
	}
	var chain []program
	for _, f := range filters {
		attrs := f.Attrs()
		if attrs.Chain != nil && *attrs.Chain != 0 {
			continue // packets come there only if a filter sends them
		}
		p := program{
			kind: kindClsact, filter: f.Type(), priority: attrs.Priority, protocol: attrs.Protocol, handle: attrs.Handle,
		}
		if b, ok := f.(*netlink.BpfFilter); ok {
			p.id = ebpf.ProgramID(b.Id)
			p.ours = strings.HasPrefix(b.Name, clsactPrefix) && c.isOurs(p.id)
		}
		chain = append(chain, p)
	}
	return chain, nil
}

func (clsactHook) newFilter(ifindex int, dir bpf.LbDirection, priority uint16) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex,
			Parent:    clsactParent(dir),
			Handle:    clsactHandle,
			Protocol:  unix.ETH_P_ALL,
			Priority:  priority,
		},
		Name:         clsactPrefix + directionName(dir),
		DirectAction: true,
	}
}

func clsactParent(dir bpf.LbDirection) uint32 {
	if dir == bpf.LbDirectionDIRECTION_EGRESS {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

// isGone tells whether the kernel misses the interface, its qdisc or the filter.
func isGone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)
}
