// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/daemon/api"
)

// Reply routing: a pod's default route usually leaves by eth0, so a reply to a client beyond the subnet would too. For
// each address of the attachment there is a rule
//
//	32000: from 192.168.20.20 lookup 51000300
//
// and the table holds the address's subnet and its default route, both by the attachment's interface.
const (
	// rulePriority is before the main table (32766), and behind what people and service meshes number by hand.
	rulePriority = 32000
	// A link's tables begin at tableBase + ifindex * tablesPerLink; each gateway of the network has one.
	tableBase     = 51_000_000
	tablesPerLink = 100
)

// reply is how packets from one address of the pod leave.
type reply struct {
	addr    netip.Prefix // with the length of its subnet
	gateway netip.Addr
	table   int
	link    int // ifindex in the pod
}

// replies gives the reply routing of an attachment. An address without a gateway of its family has none: its network
// has no way out anyway.
func replies(a api.Attachment, link int) []reply {
	var out []reply
	for _, addr := range a.Addresses {
		i := gatewayOf(addr, a.Gateways)
		if i < 0 || i >= tablesPerLink {
			continue
		}
		out = append(out, reply{addr: addr, gateway: a.Gateways[i], table: tableBase + link*tablesPerLink + i, link: link})
	}
	return out
}

// gatewayOf gives the position of the gateway in the address's subnet, or else of the first one of its family, or -1.
func gatewayOf(addr netip.Prefix, gateways []netip.Addr) int {
	if i := slices.IndexFunc(gateways, addr.Contains); i >= 0 {
		return i
	}
	return slices.IndexFunc(gateways, func(g netip.Addr) bool { return g.Is4() == addr.Addr().Is4() })
}

func (r reply) family() int {
	if r.addr.Addr().Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func (r reply) rule() *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family = r.family()
	rule.Priority = rulePriority
	rule.Table = r.table
	rule.Src = ipNet(netip.PrefixFrom(r.addr.Addr(), r.addr.Addr().BitLen()))
	return rule
}

// routes gives the table's content. The subnet comes first: it is what makes the gateway a neighbour.
func (r reply) routes() []*netlink.Route {
	everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if r.addr.Addr().Is6() {
		everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	toGateway := &netlink.Route{
		LinkIndex: r.link, Table: r.table, Family: r.family(), Protocol: unix.RTPROT_STATIC,
		Dst: ipNet(everywhere), Gw: r.gateway.AsSlice(),
	}
	if !r.addr.Contains(r.gateway) && !r.gateway.IsLinkLocalUnicast() {
		toGateway.Flags = int(netlink.FLAG_ONLINK)
	}
	if r.addr.IsSingleIP() {
		return []*netlink.Route{toGateway}
	}
	toSubnet := &netlink.Route{
		LinkIndex: r.link, Table: r.table, Family: r.family(), Protocol: unix.RTPROT_STATIC,
		Dst: ipNet(r.addr.Masked()), Scope: netlink.SCOPE_LINK,
	}
	return []*netlink.Route{toSubnet, toGateway}
}

// isReplyRule tells our rules from others by their priority and table, and nothing that a configuration could change.
func isReplyRule(rule netlink.Rule) bool {
	return rule.Priority == rulePriority && rule.Table >= tableBase
}

// lookup tells whether a rule for the address is there already, and whether it is somebody else's, such as sbr's.
func (r reply) lookup() (ours, foreign bool, err error) {
	rules, err := netlinksafe.RuleList(r.family())
	if err != nil {
		return false, false, fmt.Errorf("read routing rules: %w", err)
	}
	for _, rule := range rules {
		if rule.Src == nil || rule.Src.String() != r.rule().Src.String() {
			continue
		}
		switch {
		case isReplyRule(rule):
			ours = ours || rule.Table == r.table
		case rule.Mark == 0 && rule.IifName == "" && rule.OifName == "" && rule.Dst == nil:
			foreign = true
		}
	}
	return ours, foreign, nil
}

// add sets the reply routing up, in the current network namespace. What is there already stays.
func (r reply) add() error {
	ours, foreign, err := r.lookup()
	if err != nil || foreign {
		return err
	}
	for _, route := range r.routes() {
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add route to %s by %s in table %d: %w", route.Dst, r.gateway, r.table, err)
		}
	}
	if ours {
		return nil
	}
	if err := netlink.RuleAdd(r.rule()); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add rule from %s: %w", r.addr.Addr(), err)
	}
	return nil
}

// check tells what of the reply routing is missing in the current network namespace.
func (r reply) check() error {
	ours, foreign, err := r.lookup()
	if err != nil || foreign {
		return err
	}
	if !ours {
		return fmt.Errorf("the rule \"from %s lookup %d\" is missing", r.addr.Addr(), r.table)
	}
	present, err := tableRoutes(r.family(), func(table int) bool { return table == r.table })
	if err != nil {
		return err
	}
	for _, want := range r.routes() {
		same := func(have netlink.Route) bool {
			return have.LinkIndex == want.LinkIndex && have.Dst.String() == want.Dst.String() && have.Gw.Equal(want.Gw)
		}
		if !slices.ContainsFunc(present, same) {
			return fmt.Errorf("the route to %s in table %d is missing", want.Dst, r.table)
		}
	}
	return nil
}

// removeReplies removes what add has set up for a link, in the current network namespace. The link is 0 if it is gone
// already, and its routes with it. Rules of any link that is gone are removed too: whose DEL comes after the link's end
// cannot tell the link's tables, and if its ADD was killed, nothing else tells its addresses.
func removeReplies(link int) error {
	ours, err := replyRules()
	// Read after the rules: a link that comes with its rules meanwhile is not taken for one that is gone.
	present, linksErr := netlinksafe.LinkList()
	errs := []error{err}
	if linksErr != nil {
		errs = append(errs, fmt.Errorf("read interfaces: %w", linksErr))
	}
	for _, rule := range ours {
		index := linkOfTable(rule.Table)
		isIt := func(l netlink.Link) bool { return l.Attrs().Index == index }
		if index != link && (linksErr != nil || slices.ContainsFunc(present, isIt)) {
			continue
		}
		if err := netlink.RuleDel(&rule); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("delete rule %s: %w", rule, err))
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := tableRoutes(family, func(table int) bool { return link > 0 && linkOfTable(table) == link })
		errs = append(errs, err)
		for _, route := range routes {
			if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("delete route %s: %w", route, err))
			}
		}
	}
	return errors.Join(errs...)
}

// linkOfTable gives the index of the link whose table this is; none has a negative one.
func linkOfTable(table int) int {
	if table < tableBase {
		return -1
	}
	return (table - tableBase) / tablesPerLink
}

// replyRules gives our rules of both families.
func replyRules() ([]netlink.Rule, error) {
	rules, err := netlinksafe.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("read routing rules: %w", err)
	}
	return slices.DeleteFunc(rules, func(r netlink.Rule) bool { return !isReplyRule(r) }), nil
}

// tableRoutes gives the routes in the tables that are wanted.
func tableRoutes(family int, wanted func(table int) bool) ([]netlink.Route, error) {
	filter := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	all, err := netlinksafe.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("read routes: %w", err)
	}
	return slices.DeleteFunc(all, func(r netlink.Route) bool { return !wanted(r.Table) }), nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
