// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// retakeLimit is how often we go before programs of one name: an agent that insists, by loading its program anew, wins.
const retakeLimit = 3

// settleLimit is how often an Apply attaches again on one master; the sync loop repeats it after a while.
const settleLimit = 4

// place is one hook of a master.
type place struct {
	ifindex int
	ifname  string
	dir     bpf.LbDirection
}

// places is what packets meet on the masters, and what we did about it.
type places struct {
	passed map[rival]bool // whom we have gone before: each once
	byName map[rival]int
	issues []lb.Issue
	seen   atomic.Pointer[map[place][]program] // as Apply left it; never changed
	// retaken counts the masters on which a place was taken back.
	retaken atomic.Int64
}

// rival is a program of others that was before ours on a hook; name is for those that come back under another number.
type rival struct {
	at      place
	program program
	name    string
}

func newPlaces() places { return places{passed: map[rival]bool{}, byName: map[rival]int{}} }

// Issues tells which programs of others the last Apply found in our way, or beside us where they must not be. It
// belongs to Apply's goroutine.
func (d *Dataplane) Issues() []lb.Issue { return d.places.issues }

// keepPlaces attaches our programs again where somebody took them off, and goes to the head of the chain where somebody
// came before them: once for each such program, because it may be another agent that does the same. What stays in our
// way is an issue.
func (d *Dataplane) keepPlaces(masters []lb.Master) error {
	var errs []error
	seen := map[place][]program{}
	d.places.issues = nil
	for _, m := range masters {
		chains, err := d.chains(m)
		if _, served := d.masters[m.Index]; err == nil && served {
			chains, err = d.settle(m, chains)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("master %s: %w", m.Name, err))
			continue
		}
		for _, c := range chains {
			seen[c.at] = c.programs
			d.places.issues = append(d.places.issues, d.complaints(c)...)
		}
	}
	d.places.seen.Store(&seen)
	return errors.Join(errs...)
}

// chain is what packets meet on a hook of a master, in order.
type chain struct {
	at       place
	programs []program
}

// chains looks at both hooks of a master, in the order of directions.
func (d *Dataplane) chains(m lb.Master) ([]chain, error) {
	var out []chain
	for _, dir := range directions {
		at := place{ifindex: m.Index, ifname: m.Name, dir: dir}
		programs, err := d.programs(at)
		if err != nil {
			return nil, err
		}
		out = append(out, chain{at: at, programs: programs})
	}
	return out, nil
}

func (d *Dataplane) programs(at place) ([]program, error) {
	var all []program
	for _, h := range d.hooks.order {
		more, err := h.programs(at.ifindex, at.dir)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

// ahead gives the programs that run before ours, and whether ours is there at all.
func ahead(all []program) (before []program, there bool) {
	i := slices.IndexFunc(all, func(p program) bool { return p.ours })
	if i < 0 {
		return nil, false
	}
	return all[:i], true
}

// disturbed tells in which directions attaching again is due.
func (d *Dataplane) disturbed(chains []chain) []bpf.LbDirection {
	var dirs []bpf.LbDirection
	for _, c := range chains {
		before, there := ahead(c.programs)
		due := !there
		if !there {
			d.log.Warn("somebody took our program off; attaching it again", "ifname", c.at.ifname,
				"direction", directionName(c.at.dir))
		}
		for _, p := range before {
			due = d.mayPass(c.at, p) || due
		}
		if due {
			dirs = append(dirs, c.at.dir)
		}
	}
	return dirs
}

// mayPass tells whether we go before a program, and remembers that we did.
func (d *Dataplane) mayPass(at place, p program) bool {
	if d.isOther(p) {
		return false
	}
	this, named := rival{at: at, program: p}, rival{at: at, name: identify(p.id).name}
	if p.id != 0 {
		this.program = program{id: p.id} // wherever it is attached
	}
	if d.places.passed[this] || d.places.byName[named] >= retakeLimit {
		return false
	}
	d.places.passed[this] = true
	d.places.byName[named]++
	return true
}

// settle takes back what is due, and looks again, because what came meanwhile would be taken for seen. It gives the chains
// as they are then.
func (d *Dataplane) settle(m lb.Master, chains []chain) ([]chain, error) {
	for range settleLimit {
		dirs := d.disturbed(chains)
		if len(dirs) == 0 {
			return chains, nil
		}
		var err error
		if chains, err = d.retake(m, dirs, chains); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("somebody goes on changing what is attached while we attach: stop that, or wait")
}

// retake attaches our programs once more, which takes the earliest place, and gives the chains after that.
func (d *Dataplane) retake(m lb.Master, dirs []bpf.LbDirection, was []chain) ([]chain, error) {
	if err := d.attachPrograms(m, dirs); err != nil {
		return nil, err
	}
	is, err := d.chains(m)
	if err != nil {
		return nil, err
	}
	better := false
	for i, c := range was {
		still, _ := ahead(is[i].programs)
		before, there := ahead(c.programs)
		better = better || !there
		for _, p := range before {
			if slices.Contains(still, p) {
				continue
			}
			better = true
			d.log.Warn("went to the head of the chain again", "ifname", m.Name, "direction", directionName(c.at.dir),
				"hook", p.kind, "before", p.String(), "remedy", "that program may have kept packets from ours, and if it comes "+
					"back, ours stays behind: have it attached behind ours, or return TCX_NEXT")
		}
	}
	if better {
		d.places.retaken.Add(1)
	}
	return is, nil
}

// complaints tells what is wrong on a hook, and what a person can do.
func (d *Dataplane) complaints(c chain) []lb.Issue {
	var issues []lb.Issue
	before, _ := ahead(c.programs)
	for i, p := range c.programs {
		issue := lb.Issue{Object: "Interface " + c.at.ifname}
		switch {
		case p.ours:
			continue
		case d.isOther(p):
			issue.Reason, issue.Message = "AnotherInstance", otherInstance(c.at, p)
		case i < len(before):
			issue.Reason = "ProgramAhead"
			issue.Message = fmt.Sprintf("%s %s: %s runs before Sluice's and may keep packets from it, so that VIPs do not "+
				"answer: %s", p.kind, directionName(c.at.dir), p, d.remedy(p))
		default:
			continue
		}
		issues = append(issues, issue)
	}
	return issues
}

func (d *Dataplane) remedy(p program) string {
	_, useTCX := d.hooks.use.(tcxHook)
	const again = "; when the agent starts, it goes to the head once more"
	switch {
	case p.kind == kindTCX && useTCX:
		return "attach it behind (BPF_F_AFTER), or have it return TCX_NEXT" + again
	case p.kind == kindTCX:
		return "tcx comes before clsact, so run the agent with --attach tcx, or have that program return TCX_NEXT"
	case p.filter == clsactKind:
		return "give it a higher priority number, or have it return TC_ACT_UNSPEC" + again
	}
	return "give it a higher priority number, or run a kernel with tcx (6.6 or later)"
}

// otherInstance tells about programs of Sluice that work on other maps than ours.
func otherInstance(at place, p program) string {
	off := "stop its agent and remove the directory where that pinned them"
	if p.kind == kindClsact {
		off = fmt.Sprintf("stop its agent and take the filter off with `tc filter del dev %s %s protocol all prio %d "+
			"handle %#x bpf`", at.ifname, directionName(at.dir), p.priority, p.handle)
	}
	return fmt.Sprintf("%s %s: %s belongs to another instance of Sluice, with maps of its own, and two would answer "+
		"for the same VIPs: %s", p.kind, directionName(at.dir), p, off)
}

// refuseOtherInstance keeps us off a master that another instance of Sluice serves, or served and left its programs on.
func (d *Dataplane) refuseOtherInstance(m lb.Master) error {
	chains, err := d.chains(m)
	if err != nil {
		return err
	}
	for _, c := range chains {
		for _, p := range c.programs {
			if d.isOther(p) {
				return errors.New(otherInstance(c.at, p))
			}
		}
	}
	return nil
}

// placesMoved tells whether anything differs from what Apply left. It may run beside Apply.
func (d *Dataplane) placesMoved() (bool, error) {
	seen := d.places.seen.Load()
	if seen == nil {
		return false, nil
	}
	for at, was := range *seen {
		is, err := d.programs(at)
		if err != nil {
			return false, err
		}
		if !slices.Equal(was, is) {
			return true, nil
		}
	}
	return false, nil
}

// load is how many programs of others run before ours on a hook.
type load struct {
	ifname, direction string
	programs          int
}

// aheadNow gives the loads as Apply left them. It may run beside Apply.
func (s *places) aheadNow() []load {
	seen := s.seen.Load()
	if seen == nil {
		return nil
	}
	var out []load
	for at, all := range *seen {
		before, _ := ahead(all)
		out = append(out, load{ifname: at.ifname, direction: directionName(at.dir), programs: len(before)})
	}
	return out
}
