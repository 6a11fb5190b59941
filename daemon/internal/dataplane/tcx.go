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

// tcxHook attaches by tcx links, pinned as <ifindex>-<direction>. The pinned link is what makes a program ours.
type tcxHook struct {
	pins string // directory of the links
}

// nextSuffix is the end of a link's name before it takes the place of another.
const nextSuffix = "-next"

var _ hook = tcxHook{}

func (t tcxHook) attach(ifindex int, dir bpf.LbDirection, prog *ebpf.Program) error {
	// One that was killed between its last two steps left two links.
	if err := unpinNext(t.path(ifindex, dir)); err != nil {
		return err
	}
	old, err := t.open(ifindex, dir)
	if err != nil {
		return err
	}
	if old == nil {
		return t.lead(ifindex, dir, prog)
	}
	defer old.Close()
	chain, err := t.programs(ifindex, dir)
	if err != nil {
		return err
	}
	if len(chain) == 0 || !chain[0].ours {
		return t.lead(ifindex, dir, prog)
	}
	if err := old.Update(prog); err != nil {
		return fmt.Errorf("replace the tcx %s program of interface %d: %w", directionName(dir), ifindex, err)
	}
	return nil
}

// lead attaches at the head, because programs before ours may end the chain, and then we would never see the packet. A
// link cannot be moved: a new one takes the place and the name of the old one, which goes when nobody has it open.
func (t tcxHook) lead(ifindex int, dir bpf.LbDirection, prog *ebpf.Program) error {
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: ifindex, Program: prog, Attach: attachType(dir), Anchor: link.Head(),
	})
	if err != nil {
		return fmt.Errorf("attach tcx %s to interface %d: %w", directionName(dir), ifindex, err)
	}
	defer l.Close()
	path := t.path(ifindex, dir)
	if err := l.Pin(path + nextSuffix); err != nil {
		return fmt.Errorf("pin the tcx link as %s: %w", path+nextSuffix, err)
	}
	if err := os.Rename(path+nextSuffix, path); err != nil {
		return errors.Join(fmt.Errorf("pin the tcx link as %s: %w", path, err), unpinNext(path))
	}
	return nil
}

// open gives our pinned link, or nil if there is none.
func (t tcxHook) open(ifindex int, dir bpf.LbDirection) (link.Link, error) {
	path := t.path(ifindex, dir)
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned link %s: %w", path, err)
	}
	return l, nil
}

// unpinNext removes the pin that lead makes on the way to path.
func unpinNext(path string) error {
	if err := os.Remove(path + nextSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin a link: %w", err)
	}
	return nil
}

func (t tcxHook) detach(ifindex int, dir bpf.LbDirection) error {
	if err := unpinNext(t.path(ifindex, dir)); err != nil {
		return err
	}
	l, err := t.open(ifindex, dir)
	if l == nil || err != nil {
		return err
	}
	return errors.Join(wrap("unpin link", l.Unpin()), wrap("close link", l.Close()))
}

func (t tcxHook) programs(ifindex int, dir bpf.LbDirection) ([]program, error) {
	result, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: attachType(dir)})
	if errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the tcx %s programs of interface %d: %w", directionName(dir), ifindex, err)
	}
	ours, err := t.linkID(ifindex, dir)
	if err != nil {
		return nil, err
	}
	chain := make([]program, 0, len(result.Programs))
	for _, p := range result.Programs {
		id, linked := p.LinkID()
		chain = append(chain, program{kind: kindTCX, id: p.ID, ours: linked && id == ours})
	}
	return chain, nil
}

// linkID gives the number of our link, or 0, which is none's, if there is none.
func (t tcxHook) linkID(ifindex int, dir bpf.LbDirection) (link.ID, error) {
	l, err := t.open(ifindex, dir)
	if l == nil || err != nil {
		return 0, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return 0, fmt.Errorf("look at pinned link %s: %w", t.path(ifindex, dir), err)
	}
	return info.ID, nil
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

func attachType(dir bpf.LbDirection) ebpf.AttachType {
	if dir == bpf.LbDirectionDIRECTION_EGRESS {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}
