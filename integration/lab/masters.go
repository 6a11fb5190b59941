// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
)

// What a node's master may be, for Options: its name says it.
const (
	// Card is on a port of the switch of its own.
	Card = "eth1"
	// VLAN is a sub-interface of eth1. The port carries the segment's frames with the tag, and no others.
	VLAN = "eth1.100"
	// Bond has two ports of the switch, for eth1 and eth2, and uses one at a time (active-backup). It looks for their
	// carriers every 20 ms.
	Bond = "bond0"
)

const (
	vlanID  = 100
	bondMon = 20 // ms
)

// plugMaster connects a node to the switch by its master, with the node's address.
func (l *Lab) plugMaster(n *Node, addr dual, flood bool) error {
	port := n.Name
	switch n.MasterName {
	case Card:
		return l.Switch.plug(n.Host, Card, addr, flood)
	case VLAN:
		if err := l.Switch.cable(port, dual{}, n.Host, Card, dual{}); err != nil {
			return err
		}
		return errors.Join(l.Switch.addVLAN(port, dual{}), n.addVLAN(Card, addr), l.Switch.join(vlanName(port), flood))
	case Bond:
		return errors.Join(
			l.Switch.plug(n.Host, "eth1", dual{}, flood),
			l.Switch.plugAs(SecondPort(n), n.Host, "eth2", dual{}, flood),
			n.addBond(addr, "eth1", "eth2"),
		)
	}
	return fmt.Errorf("make master %q: want %s, %s or %s", n.MasterName, Card, VLAN, Bond)
}

// Cards lists the interfaces below the node's master, or that itself.
func (n *Node) Cards() []string {
	if n.MasterName == Bond {
		return []string{"eth1", "eth2"}
	}
	return []string{Card}
}

// SecondPort is the name of the switch's port for the second card of a node's bond. The first card's is named like the node.
func SecondPort(n *Node) string { return n.Name + "-2" }

func vlanName(lower string) string { return fmt.Sprintf("%s.%d", lower, vlanID) }

// addVLAN adds a sub-interface to one of the host's interfaces.
func (h *Host) addVLAN(lower string, addr dual) error {
	return with(h.netns(), func(nl netlinksafe.Handle) error {
		link, err := nl.LinkByName(lower)
		if err != nil {
			return fmt.Errorf("find interface %q: %w", lower, err)
		}
		vlan := &netlink.Vlan{LinkAttrs: netlink.NewLinkAttrs(), VlanId: vlanID}
		vlan.Name, vlan.ParentIndex = vlanName(lower), link.Attrs().Index
		if err := nl.LinkAdd(vlan); err != nil {
			return fmt.Errorf("add VLAN sub-interface %s: %w", vlan.Name, err)
		}
		return up(nl, vlan.Name, addr)
	})
}

// addBond makes a bond of interfaces of the host.
func (h *Host) addBond(addr dual, cards ...string) error {
	return with(h.netns(), func(nl netlinksafe.Handle) error {
		bond := netlink.NewLinkBond(netlink.NewLinkAttrs())
		bond.Name, bond.Mode, bond.Miimon = Bond, netlink.BOND_MODE_ACTIVE_BACKUP, bondMon
		if err := nl.LinkAdd(bond); err != nil {
			return fmt.Errorf("add bond %s: %w", Bond, err)
		}
		for _, name := range cards {
			card, err := nl.LinkByName(name)
			if err != nil {
				return fmt.Errorf("find interface %q: %w", name, err)
			}
			if err := errors.Join(nl.LinkSetDown(card), nl.LinkSetMasterByIndex(card, bond.Index)); err != nil {
				return fmt.Errorf("bind %s into %s: %w", name, Bond, err)
			}
		}
		return up(nl, Bond, addr)
	})
}
