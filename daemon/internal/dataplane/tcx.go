// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bpf"
)

// tcxHook attaches by tcx links, pinned as <ifindex>-<direction>.
type tcxHook struct {
	pins string // directory of the links
}

var _ hook = tcxHook{}

func (t tcxHook) attach(ifindex int, dir bpf.LbDirection, prog *ebpf.Program) error {
	path := t.path(ifindex, dir)
	l, err := link.LoadPinnedLink(path, nil)
	if err == nil {
		defer l.Close()
		err = l.Update(prog)
		if err == nil {
			return nil
		}
		// The interface went away under the link, and its number was given out again.
		if !errors.Is(err, unix.ENOLINK) {
			return fmt.Errorf("replace the tcx %s program of interface %d: %w", directionName(dir), ifindex, err)
		}
		if err := l.Unpin(); err != nil {
			return fmt.Errorf("unpin the link of a vanished interface: %w", err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("open pinned link %s: %w", path, err)
	}

	attachType := ebpf.AttachTCXIngress
	if dir == bpf.LbDirectionDIRECTION_EGRESS {
		attachType = ebpf.AttachTCXEgress
	}
	// At the head: programs after ours may end the chain, and then we would never see the packet.
	l, err = link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: prog, Attach: attachType, Anchor: link.Head()})
	if err != nil {
		return fmt.Errorf("attach tcx %s to interface %d: %w", directionName(dir), ifindex, err)
	}
	defer l.Close()
	if err := l.Pin(path); err != nil {
		return fmt.Errorf("pin the tcx link as %s: %w", path, err)
	}
	return nil
}

func (t tcxHook) detach(ifindex int, dir bpf.LbDirection) error {
	path := t.path(ifindex, dir)
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pinned link %s: %w", path, err)
	}
	return errors.Join(wrap("unpin link", l.Unpin()), wrap("close link", l.Close()))
}

func (t tcxHook) attached() ([]int, error) {
	entries, err := os.ReadDir(t.pins)
	if err != nil {
		return nil, fmt.Errorf("list pinned links: %w", err)
	}
	var indexes []int
	for _, e := range entries {
		number, _, _ := strings.Cut(e.Name(), "-")
		index, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("pinned link %s: not a name of ours; remove it", filepath.Join(t.pins, e.Name()))
		}
		indexes = append(indexes, index)
	}
	return indexes, nil
}

func (t tcxHook) path(ifindex int, dir bpf.LbDirection) string {
	return filepath.Join(t.pins, fmt.Sprintf("%d-%s", ifindex, directionName(dir)))
}
