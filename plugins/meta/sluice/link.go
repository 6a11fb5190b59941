// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/internal/ether"
)

// podLink is the pod's interface as the kernel has it. The kernel is asked because a result of CNI 0.1.0 has no
// interfaces, none names the master, and a plugin in between may have changed the MAC.
type podLink struct {
	index  int // in the pod's network namespace
	kind   string
	mode   string // of a macvlan or ipvlan; empty otherwise
	mac    ether.MAC
	addrs  []netip.Prefix
	parent int  // ifindex of the interface below it
	inHost bool // the parent is in the network namespace that the plugin was started in
}

var macvlanModes = map[netlink.MacvlanMode]string{
	netlink.MACVLAN_MODE_BRIDGE:   "bridge",
	netlink.MACVLAN_MODE_PRIVATE:  "private",
	netlink.MACVLAN_MODE_VEPA:     "vepa",
	netlink.MACVLAN_MODE_PASSTHRU: "passthru",
	netlink.MACVLAN_MODE_SOURCE:   "source",
}

var ipvlanModes = map[netlink.IPVlanMode]string{
	netlink.IPVLAN_MODE_L2:  "l2",
	netlink.IPVLAN_MODE_L3:  "l3",
	netlink.IPVLAN_MODE_L3S: "l3s",
}

// errNoLink means that the pod has no interface of the name.
var errNoLink = errors.New("no such interface")

// readLink reads an interface of the current network namespace. It wraps errNoLink if there is none.
func readLink(name string, host ns.NetNS) (podLink, error) {
	link, err := netlinksafe.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return podLink{}, fmt.Errorf("%w %q", errNoLink, name)
	}
	if err != nil {
		return podLink{}, fmt.Errorf("read link %q: %w", name, err)
	}
	attrs := link.Attrs()
	l := podLink{index: attrs.Index, kind: link.Type(), parent: attrs.ParentIndex}
	switch typed := link.(type) {
	case *netlink.Macvlan:
		l.mode = macvlanModes[typed.Mode]
	case *netlink.IPVlan:
		l.mode = ipvlanModes[typed.Mode]
	}
	// The kernel numbers other network namespaces from the view of this one. An unset number means this very one, and
	// so does a parent that was made in here.
	hostID, err := netlink.GetNetNsIdByFd(int(host.Fd()))
	if err != nil {
		return podLink{}, fmt.Errorf("identify the host's network namespace: %w", err)
	}
	l.inHost = l.parent > 0 && attrs.NetNsID >= 0 && attrs.NetNsID == hostID
	if l.mac, err = ether.FromSlice(attrs.HardwareAddr); err != nil {
		return podLink{}, fmt.Errorf("read link %q: %w", name, err)
	}
	l.addrs, err = readAddrs(link)
	return l, err
}

// readAddrs gives a link's addresses, without those that are valid on the link only.
func readAddrs(link netlink.Link) ([]netip.Prefix, error) {
	addrs, err := netlinksafe.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("read addresses of %q: %w", link.Attrs().Name, err)
	}
	var out []netip.Prefix
	for _, a := range addrs {
		addr, ok := netip.AddrFromSlice(a.IP)
		if !ok || addr.IsLinkLocalUnicast() && addr.Is6() {
			continue
		}
		bits, _ := a.Mask.Size()
		out = append(out, netip.PrefixFrom(addr.Unmap(), bits))
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out), nil
}

// namespaceInode gives what tells a network namespace from any other that exists now.
func namespaceInode(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("stat %s: no inode", path)
	}
	return stat.Ino, nil
}
