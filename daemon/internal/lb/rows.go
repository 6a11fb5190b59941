// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sluice-lb/sluice/daemon/api"
)

// Services tells people what the State balances: a row per frontend, sorted by Service, network, address, port and
// protocol. The counters of each backend come from the given function.
func (s State) Services(counters func(Frontend, Backend) api.Counters) []api.Service {
	masters := make(map[int]Master, len(s.Masters))
	for _, m := range s.Masters {
		masters[m.Index] = m
	}
	owners := make(map[station4]string, len(s.VIPs))
	for _, v := range s.VIPs {
		if len(v.Candidates) > 0 {
			owners[station4{v.Master, v.Addr}] = v.Candidates[0]
		}
	}
	rows := make([]api.Service, 0, len(s.Frontends))
	for _, f := range s.Frontends {
		row := api.Service{
			Network:   f.Network,
			VIP:       f.Addr.Addr(),
			Port:      f.Addr.Port(),
			Protocol:  f.Protocol.String(),
			Algorithm: "maglev",
			Mode:      "direct",
			Owner:     owners[station4{f.Master, f.Addr.Addr()}],
			Master:    masters[f.Master].Name,
			State:     "active",
			Backends:  make([]api.Backend, 0, len(f.Backends)),
		}
		row.Namespace, row.Name, _ = strings.Cut(f.Service, "/")
		switch {
		case !masters[f.Master].Up:
			row.State = api.StateMasterDown
		case !f.isOpen():
			row.State = "no-backends"
		}
		for _, b := range f.Backends {
			c := counters(f, b)
			row.Counters = row.Counters.Add(c)
			row.Backends = append(row.Backends, api.Backend{
				Pod: b.Pod, Node: b.Node, Address: b.Addr.Addr(), MAC: b.MAC, Port: b.Addr.Port(),
				Weight: 1, State: string(b.State), Local: b.Local, Counters: c,
			})
		}
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, func(a, b api.Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Network, b.Network), a.VIP.Compare(b.VIP), cmp.Compare(a.Port, b.Port),
			cmp.Compare(a.Protocol, b.Protocol))
	})
	return rows
}
