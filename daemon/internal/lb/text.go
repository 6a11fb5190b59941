// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"fmt"
	"net/netip"
	"strings"
)

// Text gives the State as text for people: one line per thing, a backend indented below its frontend with its share of the
// table's slots. It is what tests compare; it is not an interface, and may change.
func (s State) Text() string {
	var b strings.Builder
	masters := make(map[int]string, len(s.Masters))
	fmt.Fprintf(&b, "node %s\n", s.Node)
	for _, m := range s.Masters {
		masters[m.Index] = m.Name
		fmt.Fprintf(&b, "master %s index=%d segment=%s mac=%s addrs=%s%s%s%s%s%s\n",
			m.Name, m.Index, m.Segment, m.MAC, join(m.Addrs), mark(!m.Up, "down"), mark(m.Shared, "shared"),
			mark(m.Apart, "apart"), mark(m.IPVlan, "ipvlan"), mark(m.Routed, "routed"))
	}
	for _, p := range s.Pods {
		fmt.Fprintf(&b, "pod %s on %s mac=%s addrs=%s attachment=%s netns=%s%s\n",
			p.Pod, masters[p.Master], p.MAC, join(p.Addrs), p.Attachment, p.Netns, mark(p.Private, "private"))
	}
	for _, p := range s.Peers {
		fmt.Fprintf(&b, "peer %s on %s mac=%s", p.Node, masters[p.Master], p.MAC)
		if p.Addr.IsValid() {
			fmt.Fprintf(&b, " addr=%s", p.Addr)
		}
		fmt.Fprintln(&b)
	}
	for _, v := range s.VIPs {
		fmt.Fprintf(&b, "vip %s on %s segment=%s candidates=%s%s\n",
			v.Addr, masters[v.Master], v.Segment, strings.Join(v.Candidates, ","), mark(v.Owned, "owned"))
	}
	for _, f := range s.Frontends {
		table := f.Table()
		fmt.Fprintf(&b, "frontend %s %s on %s service=%s network=%s slots=%d\n",
			f.Protocol, f.Addr, masters[f.Master], f.Service, f.Network, len(table))
		if f.Clients.Restricted {
			fmt.Fprintf(&b, "  only clients in %s\n", f.Clients.Ranges)
		}
		if f.Clients.Affinity > 0 {
			fmt.Fprintf(&b, "  clients keep their pod for %d s\n", f.Clients.Affinity)
		}
		if f.Local {
			fmt.Fprintf(&b, "  to pods of this node, if it has any\n")
		}
		shares := make([]int, len(f.Backends))
		for _, i := range table {
			shares[i]++
		}
		for i, be := range f.Backends {
			fmt.Fprintf(&b, "  %s %s mac=%s node=%s pod=%s slots=%d%s\n",
				be.Addr, be.State, be.MAC, be.Node, be.Pod, shares[i], mark(be.Local, "local"))
		}
	}
	for _, i := range s.Issues {
		fmt.Fprintf(&b, "issue %s\n", i)
	}
	return b.String()
}

func join(addrs []netip.Addr) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, ",")
}

func mark(set bool, word string) string {
	if !set {
		return ""
	}
	return " " + word
}
