// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/bpf"
)

// attachedPrograms asks the kernel which programs an interface carries, as "tcx ingress".
func attachedPrograms(t testing.TB, ifindex int) []string {
	t.Helper()
	var got []string
	tcx := probeTCX() == nil
	for _, dir := range directions {
		if tcx {
			for range queryTCX(t, ifindex, dir) {
				got = append(got, "tcx "+directionName(dir))
			}
		}
		filters, err := netlinksafe.FilterList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}, clsactParent(dir))
		must(t, err)
		for range filters {
			got = append(got, "clsact "+directionName(dir))
		}
	}
	slices.Sort(got)
	return got
}

func queryTCX(t testing.TB, ifindex int, dir bpf.LbDirection) []link.AttachedProgram {
	t.Helper()
	attach := ebpf.AttachTCXIngress
	if dir == bpf.LbDirectionDIRECTION_EGRESS {
		attach = ebpf.AttachTCXEgress
	}
	result, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: attach})
	must(t, err)
	return result.Programs
}
