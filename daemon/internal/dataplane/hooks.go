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
	// attach puts prog into force, or in place of the program that is there, without a gap.
	attach(ifindex int, dir bpf.LbDirection, prog *ebpf.Program) error
	// detach takes our program off. Detaching where there is none, or no such interface, succeeds.
	detach(ifindex int, dir bpf.LbDirection) error
	// attached lists the interfaces that may carry a program of ours.
	attached() ([]int, error)
}

// hooks is the hook in use, and the one that an earlier agent may have used.
type hooks struct {
	use   hook
	other hook
}

func newHooks(mode AttachMode, linkDir string) (hooks, error) {
	tcx, clsact := tcxHook{pins: linkDir}, clsactHook{}
	if mode == AttachClsact {
		return hooks{use: clsact, other: tcx}, nil
	}
	err := probeTCX()
	switch {
	case err == nil && (mode == AttachTCX || mode == AttachAuto || mode == ""):
		return hooks{use: tcx, other: clsact}, nil
	case errors.Is(err, ebpf.ErrNotSupported) && mode != AttachTCX:
		return hooks{use: clsact, other: tcx}, nil
	case err != nil:
		return hooks{}, fmt.Errorf("attach mode %q: %w", mode, err)
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
