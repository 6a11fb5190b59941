// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bpf"
)

// clsactHook attaches by cls_bpf filters in direct-action mode. Handle and priority are fixed, so that a replace finds the
// filter that is there. The qdisc stays when the last filter goes: others may be about to use it.
type clsactHook struct{}

const (
	clsactPriority = 1
	clsactHandle   = 0x51
	clsactPrefix   = "sluice_"
)

var _ hook = clsactHook{}

func (c clsactHook) attach(ifindex int, dir bpf.LbDirection, prog *ebpf.Program) error {
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: ifindex,
			Handle:    netlink.MakeHandle(0xffff, 0),
			Parent:    netlink.HANDLE_CLSACT,
		},
		QdiscType: "clsact",
	}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact to interface %d: %w", ifindex, err)
	}
	filter := c.filter(ifindex, dir)
	filter.Fd = prog.FD()
	if err := netlink.FilterReplace(filter); err != nil {
		return fmt.Errorf("attach clsact %s to interface %d: %w", directionName(dir), ifindex, err)
	}
	return nil
}

func (c clsactHook) detach(ifindex int, dir bpf.LbDirection) error {
	found, err := c.carries(ifindex, dir)
	if err != nil || !found {
		return err
	}
	if err := netlink.FilterDel(c.filter(ifindex, dir)); err != nil && !isGone(err) {
		return fmt.Errorf("detach clsact %s from interface %d: %w", directionName(dir), ifindex, err)
	}
	return nil
}

func (c clsactHook) attached() ([]int, error) {
	links, err := netlinksafe.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var indexes []int
	for _, l := range links {
		for _, dir := range directions {
			found, err := c.carries(l.Attrs().Index, dir)
			if err != nil {
				return nil, err
			}
			if found {
				indexes = append(indexes, l.Attrs().Index)
				break
			}
		}
	}
	return indexes, nil
}

// carries tells whether a filter of ours is there: deleting by handle and priority alone could hit somebody else's.
func (c clsactHook) carries(ifindex int, dir bpf.LbDirection) (bool, error) {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	filters, err := netlinksafe.FilterList(link, clsactParent(dir))
	if isGone(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list clsact filters of interface %d: %w", ifindex, err)
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Handle == clsactHandle && strings.HasPrefix(b.Name, clsactPrefix) {
			return true, nil
		}
	}
	return false, nil
}

func (clsactHook) filter(ifindex int, dir bpf.LbDirection) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex,
			Parent:    clsactParent(dir),
			Handle:    clsactHandle,
			Protocol:  unix.ETH_P_ALL,
			Priority:  clsactPriority,
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
