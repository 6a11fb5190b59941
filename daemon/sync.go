// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/daemon/internal/announce"
	"github.com/sluice-lb/sluice/daemon/internal/dataplane"
	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/kube/apiserver"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// pipeline is Snapshot, Compile, Apply for one node. Its sync runs in one goroutine; State and Ready may be called from any.
type pipeline struct {
	snapshot func() lb.Snapshot
	apply    func(context.Context, lb.State) error
	found    func() []lb.Issue // what the last apply found on the node
	announce func([]announce.VIP)
	publish  func(apiserver.Facts) // tells peers of this node; must not block
	events   kube.Events
	log      *slog.Logger

	compiler lb.Compiler
	told     map[lb.Issue]bool        // issues of Services that this node has told, and that last
	state    atomic.Pointer[lb.State] // that was handed to apply last, with what was found then
	applied  atomic.Pointer[lb.State] // that apply took without an error last
}

// State gives what the datapath was last asked to do.
func (p *pipeline) State() lb.State {
	if s := p.state.Load(); s != nil {
		return *s
	}
	return lb.State{}
}

// Ready tells why the node does not serve yet.
func (p *pipeline) Ready() error {
	if p.applied.Load() == nil {
		return errors.New("the datapath is not programmed yet: see the agent's log")
	}
	return nil
}

// services gives the rows of `sluicectl get lb`. A backend that the datapath does not have yet has sent nothing. Before the
// node is ready it does not know, which is not the same as no Services.
func (p *pipeline) services(read func() (map[dataplane.BackendKey]api.Counters, error)) ([]api.Service, error) {
	if err := p.Ready(); err != nil {
		return nil, &api.Error{Code: api.CodeTryAgain, Msg: "the services are not known yet", Details: err.Error()}
	}
	counters, err := read()
	if err != nil {
		return nil, err
	}
	return p.State().Services(func(f lb.Frontend, b lb.Backend) api.Counters {
		return counters[dataplane.BackendKey{Master: f.Master, Protocol: f.Protocol, Frontend: f.Addr, Backend: b.Addr}]
	}), nil
}

// issues gives the rows of `sluicectl get issues`. Before the first sync they are not known, which is not the same as
// none.
func (p *pipeline) issues() ([]api.Issue, error) {
	state := p.state.Load()
	if state == nil {
		return nil, &api.Error{Code: api.CodeTryAgain, Msg: "the issues are not known yet", Details: p.Ready().Error()}
	}
	issues := make([]api.Issue, 0, len(state.Issues))
	for _, i := range state.Issues {
		issues = append(issues, api.Issue(i))
	}
	return issues, nil
}

// sync makes the datapath follow the sources. What concerns VIPs is announced also when something else could not be
// applied: ownership is static, so nobody else would serve them.
func (p *pipeline) sync(ctx context.Context) error {
	began := time.Now()
	in := p.snapshot()
	state := p.compiler.Compile(in)
	before := p.State()
	err := p.apply(ctx, state)
	state.Issues = append(slices.Clip(state.Issues), p.found()...)
	p.state.Store(&state)
	p.reportIssues(in, before.Issues, state.Issues)
	if ctx.Err() != nil {
		return err
	}
	p.reportMoves(before, state)
	p.announce(announced(state, in.Links))
	p.tellOwned(before, state)
	if err != nil {
		return err
	}
	p.publish(factsOf(state))
	if old := p.applied.Swap(&state); old == nil || !old.Equal(state) {
		p.log.Info("applied", "masters", len(state.Masters), "pods", len(state.Pods), "vips", len(state.VIPs),
			"frontends", len(state.Frontends), "backends", countBackends(state), "issues", len(state.Issues),
			"took", time.Since(began).Round(time.Microsecond))
	}
	return nil
}

// reportIssues logs each issue when it appears and when it is gone. What objects say wrong is logged by every agent, and told
// by the controller; what nodes find is told by them.
func (p *pipeline) reportIssues(in lb.Snapshot, before, after []lb.Issue) {
	for _, issue := range missing(before, after) {
		p.log.Info("issue is gone", "object", issue.Object, "reason", issue.Reason)
	}
	for _, issue := range missing(after, before) {
		p.log.Warn(issue.Message, "object", issue.Object, "reason", issue.Reason)
		if !slices.Contains(in.Issues, issue) {
			p.warn(in.Node, issue)
		}
	}
	p.warnServices(in, after)
}

// missing gives those of a that are not in b.
func missing(a, b []lb.Issue) []lb.Issue {
	known := make(map[lb.Issue]bool, len(b))
	for _, issue := range b {
		known[issue] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(issue lb.Issue) bool { return known[issue] })
}

// vipKey names a VIP by the interface's name, which people know.
type vipKey struct {
	addr   netip.Addr
	ifname string
}

// reportMoves logs each VIP that has another owner than before.
func (p *pipeline) reportMoves(before, after lb.State) {
	was, is := owners(before), owners(after)
	for key, owner := range is {
		if old, known := was[key]; !known || old != owner {
			p.log.Info("VIP", "vip", key.addr, "ifname", key.ifname, "owner", owner, "before", old)
		}
	}
	for key, old := range was {
		if _, stays := is[key]; !stays {
			p.log.Info("VIP is gone", "vip", key.addr, "ifname", key.ifname, "before", old)
		}
	}
}

// owners gives the owner of each VIP; it is empty for a VIP without candidates.
func owners(state lb.State) map[vipKey]string {
	names := masterNames(state)
	out := make(map[vipKey]string, len(state.VIPs))
	for _, v := range state.VIPs {
		owner := ""
		if len(v.Candidates) > 0 {
			owner = v.Candidates[0]
		}
		out[vipKey{v.Addr, names[v.Master].Name}] = owner
	}
	return out
}

// announced gives the addresses that neighbours shall hear of, where the cable is plugged in: the VIPs that are ours, and those
// of pods that cannot tell themselves. When carrier comes back, or
// was away for a moment, a VIP is announced as new, because switches and neighbours may have learnt otherwise.
func announced(state lb.State, links []lb.Link) []announce.VIP {
	epochs := make(map[int]uint64, len(links))
	for _, l := range links {
		epochs[l.Index] = l.Epoch
	}
	names := masterNames(state)
	var out []announce.VIP
	add := func(master lb.Master, addr netip.Addr) {
		if master.Up {
			out = append(out, announce.VIP{
				IfIndex: master.Index, IfName: master.Name, MAC: master.MAC, Addr: addr, Epoch: epochs[master.Index],
			})
		}
	}
	for _, v := range state.VIPs {
		if v.Owned {
			add(names[v.Master], v.Addr)
		}
	}
	for _, p := range state.Pods {
		for _, addr := range p.Addrs {
			if names[p.Master].Routed {
				add(names[p.Master], addr)
			}
		}
	}
	return out
}

func masterNames(state lb.State) map[int]lb.Master {
	out := make(map[int]lb.Master, len(state.Masters))
	for _, m := range state.Masters {
		out[m.Index] = m
	}
	return out
}

func countBackends(state lb.State) int {
	n := 0
	for _, f := range state.Frontends {
		n += len(f.Backends)
	}
	return n
}
