// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/sluice-lb/sluice/bpf"
)

// AttachMode chooses how programs are attached to masters.
type AttachMode string

const (
	// AttachAuto takes tcx where the kernel has it, else clsact.
	AttachAuto AttachMode = "auto"
	// AttachTCX takes tcx links (kernel >= 6.6), at the head of the chain.
	AttachTCX AttachMode = "tcx"
	// AttachClsact takes cls_bpf filters on a clsact qdisc (every kernel that is served).
	AttachClsact AttachMode = "clsact"
)

// hook attaches programs to interfaces. Implementations hold nothing in memory: what is attached is read from the kernel
// or the pins, so that the next agent finds it.
type hook interface {
	// attach puts prog into force, in the earliest place that can be had without touching what others attached, and
	// takes our former program off. There is no gap; for a moment both may run, which is harmless, because a packet
	// that the first one serves ends the chain.
	attach(ifindex int, dir bpf.LbDirection, prog *ebpf.Program) error
	// detach takes our program off. Detaching where there is none, or no such interface, succeeds.
	detach(ifindex int, dir bpf.LbDirection) error
	// attached lists the interfaces that may carry a program of ours.
	attached() ([]int, error)
	// programs lists what packets meet there, everybody's, in the order in which they meet it. Where there is no such
	// interface there is nothing.
	programs(ifindex int, dir bpf.LbDirection) ([]program, error)
}

// hooks is the hook in use, the one that an earlier agent may have used, and those that this kernel has, in the order
// in which packets pass them.
type hooks struct {
	use, other hook
	order      []hook
}

// newHooks finds out which hooks there are. isOurs tells whether a program works on our maps.
func newHooks(mode AttachMode, linkDir string, isOurs func(ebpf.ProgramID) bool) (hooks, error) {
	tcx, clsact := tcxHook{pins: linkDir}, clsactHook{isOurs: isOurs}
	err := probeTCX()
	if err != nil && (mode == AttachTCX || !errors.Is(err, ebpf.ErrNotSupported)) {
		return hooks{}, fmt.Errorf("attach mode %q: %w", mode, err)
	}
	order := []hook{tcx, clsact}
	if err != nil {
		order = order[1:]
	}
	switch mode {
	case AttachClsact:
		return hooks{use: clsact, other: tcx, order: order}, nil
	case AttachTCX, AttachAuto, "":
		if err != nil {
			return hooks{use: clsact, other: tcx, order: order}, nil
		}
		return hooks{use: tcx, other: clsact, order: order}, nil
	}
	return hooks{}, fmt.Errorf("attach mode %q: want auto, tcx or clsact", mode)
}

// probeTCX asks the kernel to attach to an interface that cannot exist: one that knows tcx misses the interface, one that
// does not refuses the attach type.
func probeTCX() error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "sluice_probe",
		Type:         ebpf.SchedCLS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		License:      "GPL",
	})
	if err != nil {
		return fmt.Errorf("load a probe program (is this root with CAP_BPF and CAP_NET_ADMIN?): %w", err)
	}
	defer prog.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: math.MaxInt32, Program: prog, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		return errors.Join(errors.New("attached to an interface that does not exist"), l.Close())
	}
	if errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("tcx: %w (requires kernel >= 6.6)", ebpf.ErrNotSupported)
	}
	return nil
}

var directions = []bpf.LbDirection{bpf.LbDirectionDIRECTION_INGRESS, bpf.LbDirectionDIRECTION_EGRESS}

func directionName(dir bpf.LbDirection) string {
	if dir == bpf.LbDirectionDIRECTION_INGRESS {
		return "ingress"
	}
	return "egress"
}
