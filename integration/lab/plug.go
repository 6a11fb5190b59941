// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Master gives what Plug needs to put the node's eth1 in again, or one like it.
func (n *Node) Master() (card netlink.LinkAttrs, err error) {
	err = with(n.netns(), func(nl netlinksafe.Handle) error {
		eth1, err := nl.LinkByName("eth1")
		if err != nil {
			return fmt.Errorf("look at eth1 of %s: %w", n.Name, err)
		}
		card.Name, card.Index, card.HardwareAddr = "eth1", eth1.Attrs().Index, eth1.Attrs().HardwareAddr
		return nil
	})
	return card, err
}

// Unplug takes the node's eth1 away, as pulling a card out does: the kernel deletes it and all that lies above it.
func (n *Node) Unplug() error {
	return with(n.netns(), func(nl netlinksafe.Handle) error {
		return nl.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "eth1"}})
	})
}

// Plug puts a card into the node, with the node's address, on the same port of the switch. The kernel chooses its index if
// that is 0.
func (n *Node) Plug(card netlink.LinkAttrs) error {
	theSwitch := n.lab.Switch
	far, err := netns.GetFromPath(theSwitch.netns())
	if err != nil {
		return fmt.Errorf("open network namespace of the switch: %w", err)
	}
	defer far.Close()
	err = with(n.netns(), func(nl netlinksafe.Handle) error {
		eth1 := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: n.Name, PeerNamespace: netlink.NsFd(far)}
		eth1.Name, eth1.Index, eth1.HardwareAddr = card.Name, card.Index, card.HardwareAddr
		if err := nl.LinkAdd(eth1); err != nil {
			return fmt.Errorf("plug %s into %s: %w", card.Name, n.Name, err)
		}
		return up(nl, card.Name, dual{
			netip.PrefixFrom(n.Addr, gateway.ip4.Bits()), netip.PrefixFrom(n.Addr6, gateway.ip6.Bits()),
		})
	})
	if err != nil {
		return err
	}
	err = with(theSwitch.netns(), func(nl netlinksafe.Handle) error { return up(nl, n.Name, dual{}) })
	return errors.Join(err, theSwitch.join(n.Name, false))
}
