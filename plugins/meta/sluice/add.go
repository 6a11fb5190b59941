// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/netconf"
)

// add is CNI's ADD. It is idempotent, and what fails leaves nothing behind.
func (p *plugin) add(args *skel.CmdArgs) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), addTime)
	defer cancel()
	s := newSubject(args)
	conf, err := p.parseChained(s, args)
	if err != nil {
		return err
	}
	a, link, err := inspect(s, args, conf)
	if err != nil {
		return err
	}
	if err := refuseVIPs(s, a, conf); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			p.undo(args, a)
		}
	}()
	if conf.ReplyRouting {
		err := ns.WithNetNSPath(args.Netns, func(ns.NetNS) error {
			for _, r := range replies(a, link) {
				if err := r.add(); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return s.errorf(types.ErrInternal, "set up reply routing (to do without it, set \"replyRouting\": false): %v", err)
		}
	}
	// Spooled before it is announced: an agent that dies between the two finds it.
	if err := api.WriteSpool(p.spoolDir, a); err != nil {
		return s.errorf(types.ErrIOFailure, "%v: make %s writable and not full", err, api.RunDir)
	}
	if err := p.announce(ctx, s, a, conf.Required); err != nil {
		return err
	}
	if err := types.PrintResult(conf.PrevResult, conf.CNIVersion); err != nil {
		return s.errorf(types.ErrIOFailure, "print the result: %v", err)
	}
	return nil
}

// parse reads the configuration of all verbs but DEL and GC, which must do without.
func (p *plugin) parse(s subject, args *skel.CmdArgs) (*netconf.Plugin, error) {
	conf, warnings, err := netconf.ParsePlugin(args.StdinData)
	for _, w := range warnings {
		p.log.Warn(w, "subject", s.name)
	}
	if err != nil {
		return nil, s.errorf(types.ErrInvalidNetworkConfig, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return conf, nil
}

// parseChained is parse for the verbs that follow a plugin's ADD.
func (p *plugin) parseChained(s subject, args *skel.CmdArgs) (*netconf.Plugin, error) {
	conf, err := p.parse(s, args)
	if err != nil {
		return nil, err
	}
	if conf.Previous == nil {
		return nil, s.errorf(types.ErrInvalidNetworkConfig,
			"\"prevResult\" is missing: sluice must be chained after macvlan or ipvlan in \"plugins\"")
	}
	return conf, nil
}

// inspect describes the pod's interface, and refuses one that the datapath cannot serve. It gives the interface's index
// in the pod along.
func inspect(s subject, args *skel.CmdArgs, conf *netconf.Plugin) (api.Attachment, int, error) {
	inode, err := namespaceInode(args.Netns)
	if err != nil {
		return api.Attachment{}, 0, s.errorf(types.ErrInvalidNetNS, "find the network namespace: %v", err)
	}
	link, err := readPodLink(s, args)
	if err != nil {
		return api.Attachment{}, 0, err
	}
	// By index, and not in a namespace of its own: the parent is in the one that the plugin was started in.
	master, err := netlink.LinkByIndex(link.parent)
	if err != nil {
		return api.Attachment{}, 0, s.errorf(types.ErrInternal, "find the master, ifindex %d: %v", link.parent, err)
	}
	return api.Attachment{
		ContainerID: args.ContainerID,
		IfName:      args.IfName,
		Network:     conf.Name,
		Pod:         s.pod,
		Netns:       args.Netns,
		NetnsInode:  inode,
		Kind:        link.kind,
		Mode:        link.mode,
		MAC:         link.mac,
		Addresses:   link.addrs,
		Gateways:    gateways(conf.Previous, args.IfName),
		Master:      master.Attrs().Name,
		MasterIndex: link.parent,
	}, link.index, nil
}

// readPodLink reads the interface, and refuses one that the datapath cannot serve.
func readPodLink(s subject, args *skel.CmdArgs) (podLink, error) {
	var link podLink
	err := ns.WithNetNSPath(args.Netns, func(host ns.NetNS) (err error) {
		link, err = readLink(args.IfName, host)
		return err
	})
	switch {
	case errors.Is(err, errNoLink):
		return podLink{}, s.errorf(types.ErrInvalidNetworkConfig,
			"the pod has no such interface: sluice must be chained after macvlan or ipvlan in \"plugins\"")
	case err != nil:
		return podLink{}, s.errorf(types.ErrInternal, "%v", err)
	case link.kind != "macvlan" && link.kind != "ipvlan":
		return podLink{}, s.errorf(types.ErrInvalidNetworkConfig,
			"the interface is of kind %q: in \"plugins\", let \"type\": \"macvlan\" or \"ipvlan\" make it", link.kind)
	}
	if err := netconf.Served(link.kind, link.mode); err != nil {
		return podLink{}, s.errorf(types.ErrInvalidNetworkConfig, "%v", err)
	}
	if !link.inHost {
		return podLink{}, s.errorf(types.ErrInvalidNetworkConfig, "the interface's master is not in the host's network "+
			"namespace, where Sluice works: remove \"linkInContainer\" from the %s element", link.kind)
	}
	return link, nil
}

// gateways gives the gateways that the previous plugin knows for an interface, then those of its default routes.
func gateways(previous *current.Result, ifName string) []netip.Addr {
	var out []netip.Addr
	add := func(ip []byte) {
		if g, ok := netip.AddrFromSlice(ip); ok && !g.IsUnspecified() && !slices.Contains(out, g.Unmap()) {
			out = append(out, g.Unmap())
		}
	}
	for _, ip := range previousIPs(previous, ifName) {
		add(ip.Gateway)
	}
	for _, route := range previous.Routes {
		if ones, bits := route.Dst.Mask.Size(); ones == 0 && bits > 0 {
			add(route.GW)
		}
	}
	return out
}

// previousIPs gives the addresses of the previous result that belong to the interface, as far as it tells.
func previousIPs(previous *current.Result, ifName string) []*current.IPConfig {
	return slices.DeleteFunc(slices.Clone(previous.IPs), func(ip *current.IPConfig) bool {
		if ip == nil {
			return true
		}
		i := ip.Interface
		return i != nil && *i >= 0 && *i < len(previous.Interfaces) && previous.Interfaces[*i].Name != ifName
	})
}

// refuseVIPs refuses an attachment whose own address or gateway is a VIP of the network.
func refuseVIPs(s subject, a api.Attachment, conf *netconf.Plugin) error {
	own := make([]netip.Addr, 0, len(a.Addresses))
	for _, p := range a.Addresses {
		own = append(own, p.Addr())
	}
	for _, ip := range previousIPs(conf.Previous, a.IfName) {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			own = append(own, addr.Unmap())
		}
	}
	for _, addr := range own {
		if conf.VIPs.Contains(addr) {
			return s.errorf(types.ErrInvalidNetworkConfig, "the pod's address %s is in \"vips\" (%s): end the range of "+
				"\"ipam\" before the VIPs, or move \"vips\"", addr, conf.VIPs)
		}
	}
	for _, g := range a.Gateways {
		if conf.VIPs.Contains(g) {
			return s.errorf(types.ErrInvalidNetworkConfig, "the gateway %s is in \"vips\" (%s): leave it out of \"vips\"",
				g, conf.VIPs)
		}
	}
	return nil
}

// announce tells the agent, and waits until the datapath serves the attachment. Without an agent it succeeds, unless
// the network requires one: the agent reads the spool when it comes.
func (p *plugin) announce(ctx context.Context, s subject, a api.Attachment, required bool) error {
	err := api.NewClient(p.socket).Add(ctx, a)
	if errors.Is(err, api.ErrUnreachable) && !required {
		p.log.Warn("attachment waits for the agent", "pod", s.pod.String(), "ifname", a.IfName, "err", err)
		return nil
	}
	return agentError(s, err)
}

// agentError turns an error of the agent's client into a CNI error.
func agentError(s subject, err error) error {
	var answer *api.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, api.ErrUnreachable):
		return s.errorf(types.ErrTryAgainLater, "%v: see that sluiced runs on this node", err)
	case errors.As(err, &answer):
		return s.errorf(answer.Code, "the agent refuses: %v: see the log of sluiced on this node", answer)
	}
	return s.errorf(types.ErrTryAgainLater, "%v: see the log of sluiced on this node", err)
}

// undo takes back what ADD has done. The agent follows the spool, so it needs no word.
func (p *plugin) undo(args *skel.CmdArgs, a api.Attachment) {
	if err := api.RemoveSpool(p.spoolDir, a.Key()); err != nil {
		p.log.Warn("spool file stays", "err", err)
	}
	if err := removeRouting(args.Netns, args.IfName, a); err != nil {
		p.log.Warn("reply routing stays", "ifname", args.IfName, "err", err)
	}
}
