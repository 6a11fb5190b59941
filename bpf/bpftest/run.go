// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/sluice-lb/sluice/bpf"
)

// Direction names a hook of the master.
type Direction string

// The directions.
const (
	Ingress Direction = "ingress" // from the wire, or from a sibling pod
	Egress  Direction = "egress"  // from a local pod, from the node, or sent on by Ingress
)

// Action is what a program tells the kernel to do with the packet.
type Action string

// The actions. A redirect's target is checked: it is always the master itself.
const (
	PassOn   Action = "pass on"           // TC_ACT_UNSPEC: the next program decides
	OK       Action = "ok"                // TC_ACT_OK: goes on its way
	Drop     Action = "drop"              // TC_ACT_SHOT
	ToWire   Action = "redirect to wire"  // bpf_redirect to the master's egress
	ToPods   Action = "redirect to pods"  // bpf_redirect to the master's ingress
	Redirect Action = "redirect anywhere" // bpf_redirect, with Config.Untouched
)

// TC actions, include/uapi/linux/pkt_cls.h; the flag is bpf_redirect's.
const (
	actUnspec   = -1
	actOK       = 0
	actShot     = 2
	actRedirect = 7
	flagIngress = 1
)

// ChecksumComplete makes the kernel give the packet a full checksum as a network card would (CHECKSUM_COMPLETE), and fail
// the run if the program leaves it wrong. It is BPF_F_TEST_SKB_CHECKSUM_COMPLETE.
const ChecksumComplete = 1 << 2

// Run is one packet through one program.
type Run struct {
	Dir     Direction
	Frame   []byte
	Arrived bool          // it came in by the master, whatever the direction: skb->ingress_ifindex is the master's
	Flags   uint32        // of BPF_PROG_TEST_RUN
	Program *ebpf.Program // instead of the direction's own
}

// Result is what came of a run.
type Result struct {
	Action Action
	Reason string // as in enum reason, without its prefix
	Frame  []byte
}

// context is the part of struct __sk_buff that a test run may set. The kernel takes a shorter struct than its own.
type context struct {
	_              [9]uint32
	IngressIfindex uint32
	Ifindex        uint32
}

// Do runs the packet. The test fails unless exactly one counter moved, by one, in the run's direction.
func (lb *LB) Do(r Run) Result {
	lb.t.Helper()
	res, err := lb.Try(r)
	if err != nil {
		lb.t.Fatal(err)
	}
	return res
}

// Try is Do for callers that judge an error themselves.
func (lb *LB) Try(r Run) (Result, error) {
	prog := r.Program
	if prog == nil {
		prog = lb.coll.Programs["lb_"+string(r.Dir)]
	}
	ctx := context{Ifindex: lb.cfg.Ifindex}
	if r.Arrived || r.Dir == Ingress {
		ctx.IngressIfindex = lb.cfg.Ifindex
	}
	if err := lb.flushTables(); err != nil {
		return Result{}, err
	}
	before, err := lb.counters()
	if err != nil {
		return Result{}, err
	}
	opts := ebpf.RunOptions{Data: r.Frame, DataOut: make([]byte, len(r.Frame)+64), Context: ctx, Flags: r.Flags}
	verdict, err := prog.Run(&opts)
	if err != nil {
		return Result{}, fmt.Errorf("run %s: %w", r.Dir, err)
	}
	after, err := lb.counters()
	if err != nil {
		return Result{}, err
	}
	res := Result{Frame: opts.DataOut}
	if res.Action, err = decodeAction(verdict, lb.cfg.Ifindex); err != nil {
		return res, err
	}
	if res.Reason, err = lb.moved(r.Dir, before, after); err != nil {
		return res, err
	}
	lb.cfg.Coverage.add(r.Dir, res.Reason)
	return res, nil
}

func decodeAction(verdict, ifindex uint32) (Action, error) {
	switch int32(verdict) {
	case actUnspec:
		return PassOn, nil
	case actOK:
		return OK, nil
	case actShot:
		return Drop, nil
	case actRedirect:
		return Redirect, nil
	case int32(ifindex<<16 | actRedirect):
		return ToWire, nil
	case int32(ifindex<<16 | flagIngress<<8 | actRedirect):
		return ToPods, nil
	}
	return "", fmt.Errorf("verdict %#x is none that the programs may give", verdict)
}

// counters sums the per-CPU counters.
func (lb *LB) counters() ([]uint64, error) {
	out := make([]uint64, uint32(bpf.LbDirectionDIRECTION_MAX)*uint32(bpf.LbReasonREASON_MAX))
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count CPUs: %w", err)
	}
	keys, perCPU := make([]uint32, len(out)), make([]uint64, len(out)*cpus)
	var cursor ebpf.MapBatchCursor
	// One system call for all of them. That there are no more keys is said as an error.
	n, err := lb.Counters.BatchLookup(&cursor, keys, perCPU, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	if n != len(out) {
		return nil, fmt.Errorf("read %d of %d counters", n, len(out))
	}
	for i, key := range keys {
		for _, count := range perCPU[i*cpus : (i+1)*cpus] {
			out[key] += count
		}
	}
	return out, nil
}

// Count gives a counter's sum over the CPUs.
func (lb *LB) Count(dir Direction, reason string) uint64 {
	lb.t.Helper()
	all, err := lb.counters()
	if err != nil {
		lb.t.Fatal(err)
	}
	i := slices.Index(lb.reasons, reason)
	if i < 0 {
		lb.t.Fatalf("reason %q is not in enum reason", reason)
	}
	if dir == Egress {
		i += len(lb.reasons)
	}
	return all[i]
}

// moved gives the reason whose counter went up by one; any other movement is an error.
func (lb *LB) moved(dir Direction, before, after []uint64) (string, error) {
	var moves []string
	var reason string
	for i := range after {
		if after[i] == before[i] {
			continue
		}
		d, name := Ingress, lb.reasons[i%len(lb.reasons)]
		if i >= len(lb.reasons) {
			d = Egress
		}
		moves = append(moves, fmt.Sprintf("%s %s %+d", d, name, int64(after[i]-before[i])))
		if d == dir && after[i] == before[i]+1 {
			reason = name
		}
	}
	if len(moves) != 1 || reason == "" {
		return "", fmt.Errorf("counters moved: %q, want one %s counter by 1", moves, dir)
	}
	return reason, nil
}

// Coverage collects which reasons the programs gave. A nil Coverage collects nothing.
type Coverage struct {
	mu   sync.Mutex
	seen map[string]bool // "direction REASON"
}

func (c *Coverage) add(dir Direction, reason string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = make(map[string]bool)
	}
	c.seen[string(dir)+" "+reason] = true
}

// Missing lists what no run gave yet, as "direction REASON", of all reasons in both directions.
func (c *Coverage) Missing(lb *LB) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, dir := range []Direction{Ingress, Egress} {
		for _, reason := range lb.reasons {
			if key := string(dir) + " " + reason; !c.seen[key] {
				out = append(out, key)
			}
		}
	}
	return out
}
