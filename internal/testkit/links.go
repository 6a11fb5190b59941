// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"fmt"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
)

// probeIPVlan, probeVLAN and probeBond make such an interface in a new network namespace. The kernel loads the module
// for it if there is one, and something that loads modules.
func probeIPVlan() error {
	return inNewNetns(func() error {
		return addChild("ipvlan", func(attrs netlink.LinkAttrs) netlink.Link {
			return &netlink.IPVlan{LinkAttrs: attrs, Mode: netlink.IPVLAN_MODE_L2}
		})
	})
}

func probeVLAN() error {
	return inNewNetns(func() error {
		return addChild("VLAN", func(attrs netlink.LinkAttrs) netlink.Link {
			return &netlink.Vlan{LinkAttrs: attrs, VlanId: 100}
		})
	})
}

func probeBond() error {
	return inNewNetns(func() error {
		bond := netlink.NewLinkBond(named("bond0"))
		bond.Mode = netlink.BOND_MODE_ACTIVE_BACKUP
		if err := netlink.LinkAdd(bond); err != nil {
			return fmt.Errorf("add a bond (requires the module bonding): %w", err)
		}
		return nil
	})
}

// addChild adds an interface on top of one end of a veth pair.
func addChild(kind string, child func(netlink.LinkAttrs) netlink.Link) error {
	const parent = "parent"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: named(parent), PeerName: "peer"}); err != nil {
		return fmt.Errorf("add a veth pair: %w", err)
	}
	link, err := netlinksafe.LinkByName(parent)
	if err != nil {
		return fmt.Errorf("find the veth pair: %w", err)
	}
	attrs := named("child")
	attrs.ParentIndex = link.Attrs().Index
	if err := netlink.LinkAdd(child(attrs)); err != nil {
		return fmt.Errorf("add an interface of type %s (requires the kernel's module for it): %w", kind, err)
	}
	return nil
}

func named(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}
