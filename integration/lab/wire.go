// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// bridgeName is the switch's bridge; a port is named after the host behind it.
const bridgeName = "br0"

// with runs fn with a netlink handle in a network namespace.
func with(path string, fn func(netlinksafe.Handle) error) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer ns.Close()
	nl, err := netlinksafe.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in %s: %w", path, err)
	}
	defer nl.Close()
	return fn(nl)
}

// addBridge makes the host a switch.
func (h *Host) addBridge() error {
	return with(h.netns(), func(nl netlinksafe.Handle) error {
		br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
		br.Name = bridgeName
		if err := nl.LinkAdd(br); err != nil {
			return fmt.Errorf("add bridge %s: %w", bridgeName, err)
		}
		return nl.LinkSetUp(br)
	})
}

// snoop makes the switch a querier that waits for reports no longer than a tenth of a second: until then it would flood.
func (h *Host) snoop(ctx context.Context) error {
	return h.Command(ctx, "ip", "link", "set", bridgeName, "type", "bridge",
		"mcast_query_response_interval", "10", "mcast_snooping", "1", "mcast_querier", "1").Run()
}

// plug connects a host to the switch. With flood, the port learns no addresses.
func (h *Host) plug(host *Host, ifname string, addr dual, flood bool) error {
	return h.plugAs(host.Name, host, ifname, addr, flood)
}

// plugAs is plug for a port of another name.
func (h *Host) plugAs(port string, host *Host, ifname string, addr dual, flood bool) error {
	if err := h.cable(port, dual{}, host, ifname, addr); err != nil {
		return err
	}
	return h.join(port, flood)
}

// join makes one of the switch's links a port of its bridge.
func (h *Host) join(name string, flood bool) error {
	return with(h.netns(), func(nl netlinksafe.Handle) error {
		port, err := nl.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find switch port %q: %w", name, err)
		}
		br, err := nl.LinkByName(bridgeName)
		if err != nil {
			return fmt.Errorf("find bridge: %w", err)
		}
		if err := nl.LinkSetMasterByIndex(port, br.Attrs().Index); err != nil {
			return fmt.Errorf("plug %s into the switch: %w", name, err)
		}
		return nl.LinkSetLearning(port, !flood)
	})
}

// reflect lets a port of the switch send frames back to where they came from.
func (h *Host) reflect(port string) error {
	return with(h.netns(), func(nl netlinksafe.Handle) error {
		link, err := nl.LinkByName(port)
		if err != nil {
			return fmt.Errorf("find switch port %q: %w", port, err)
		}
		return nl.LinkSetHairpin(link, true)
	})
}

// setMAC gives an interface of the host a MAC.
func (h *Host) setMAC(ifname string, mac net.HardwareAddr) error {
	return with(h.netns(), func(nl netlinksafe.Handle) error {
		link, err := nl.LinkByName(ifname)
		if err != nil {
			return fmt.Errorf("find interface %q: %w", ifname, err)
		}
		if err := nl.LinkSetHardwareAddr(link, mac); err != nil {
			return fmt.Errorf("give MAC %s to %s: %w", mac, ifname, err)
		}
		return nil
	})
}

// cable lays a veth pair from the host to another one and gives both ends their addresses, if any.
func (h *Host) cable(name string, addr dual, peer *Host, peerName string, peerAddr dual) error {
	return cable(h.netns(), name, addr, peer.netns(), peerName, peerAddr)
}

func cable(path, name string, addr dual, peerPath, peerName string, peerAddr dual) error {
	peer, err := netns.GetFromPath(peerPath)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", peerPath, err)
	}
	defer peer.Close()
	err = with(path, func(nl netlinksafe.Handle) error {
		link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: peerName, PeerNamespace: netlink.NsFd(peer)}
		link.Name = name
		if err := nl.LinkAdd(link); err != nil {
			return fmt.Errorf("lay cable %s: %w", name, err)
		}
		return up(nl, name, addr)
	})
	if err != nil {
		return err
	}
	return with(peerPath, func(nl netlinksafe.Handle) error { return up(nl, peerName, peerAddr) })
}

func up(nl netlinksafe.Handle, name string, addr dual) error {
	link, err := nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %q: %w", name, err)
	}
	for _, p := range addr.prefixes() {
		if err := nl.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p)}); err != nil {
			return fmt.Errorf("give %s to %s: %w", p, name, err)
		}
	}
	return nl.LinkSetUp(link)
}

// route sends packets for the subnets of dst to a next hop.
func (h *Host) route(dst, via dual) error {
	return with(h.netns(), func(nl netlinksafe.Handle) error {
		hops := via.prefixes()
		for i, p := range dst.prefixes() {
			hop := hops[i].Addr()
			if err := nl.RouteAdd(&netlink.Route{Dst: ipNet(p.Masked()), Gw: hop.AsSlice()}); err != nil {
				return fmt.Errorf("route %s via %s on %s: %w", p, hop, h.Name, err)
			}
		}
		return nil
	})
}

// forward makes the host a router.
func (h *Host) forward() error {
	return h.Command(context.Background(), "sh", "-c",
		"echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding").Run()
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
