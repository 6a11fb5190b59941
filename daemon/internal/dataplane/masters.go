// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

// attachMasters puts our programs on exactly these masters. Each process loads them anew once, so that an upgraded agent
// brings its own, and for each MAC that a master gets; the exchange loses no packet.
func (d *Dataplane) attachMasters(masters []lb.Master) error {
	var errs []error
	wanted := map[int]bool{}
	for _, m := range masters {
		wanted[m.Index] = true
		if old, ok := d.masters[m.Index]; ok && old.MAC == m.MAC {
			continue
		}
		if err := d.attachMaster(m); err != nil {
			errs = append(errs, fmt.Errorf("master %s: %w", m.Name, err))
			continue
		}
		d.masters[m.Index] = m
	}
	carrying, err := d.carryingMasters()
	if err != nil {
		errs = append(errs, err)
	}
	for _, index := range carrying {
		if wanted[index] {
			continue
		}
		if err := d.detachMaster(index); err != nil {
			errs = append(errs, fmt.Errorf("release interface %d: %w", index, err))
			continue
		}
		delete(d.masters, index)
		d.leftover = true
	}
	return errors.Join(errs...)
}

func (d *Dataplane) attachMaster(m lb.Master) error {
	if err := d.refuseOtherInstance(m); err != nil {
		return err
	}
	return d.attachPrograms(m, directions)
}

// attachPrograms puts new copies of our programs on some of a master's hooks, each in the earliest place.
func (d *Dataplane) attachPrograms(m lb.Master, dirs []bpf.LbDirection) error {
	progs, err := d.loadPrograms(m.MAC)
	if err != nil {
		return err
	}
	defer progs.Close()
	for _, dir := range dirs {
		prog := progs.LbIngress
		if dir == bpf.LbDirectionDIRECTION_EGRESS {
			prog = progs.LbEgress
		}
		if err := d.hooks.use.attach(m.Index, dir, prog); err != nil {
			return err
		}
		if err := pinProgram(prog, d.programPin(m.Index, dir)); err != nil {
			return err
		}
		// Only now: two copies for a moment are harmless, because the first one's packets end the chain.
		if err := d.hooks.other.detach(m.Index, dir); err != nil {
			return err
		}
	}
	return nil
}

func (d *Dataplane) detachMaster(index int) error {
	var errs []error
	for _, dir := range directions {
		errs = append(errs, d.hooks.use.detach(index, dir), d.hooks.other.detach(index, dir))
		if err := os.Remove(d.programPin(index, dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("unpin program: %w", err))
		}
	}
	return errors.Join(errs...)
}

// carryingMasters lists the interfaces that this process attached to, and the first time, those of an earlier agent, also
// those that are gone.
func (d *Dataplane) carryingMasters() ([]int, error) {
	indexes := make([]int, 0, len(d.masters))
	for index := range d.masters {
		indexes = append(indexes, index)
	}
	if d.swept {
		return indexes, nil
	}
	for _, h := range []hook{d.hooks.use, d.hooks.other} {
		more, err := h.attached()
		if err != nil {
			return indexes, err
		}
		indexes = append(indexes, more...)
	}
	pinned, err := d.pinnedMasters()
	if err != nil {
		return indexes, err
	}
	indexes = append(indexes, pinned...)
	d.swept = true
	slices.Sort(indexes)
	return slices.Compact(indexes), nil
}

// loadPrograms verifies a copy of the programs that knows the master's MAC.
func (d *Dataplane) loadPrograms(mac ether.MAC) (*bpf.LbPrograms, error) {
	spec := d.spec.Copy()
	if err := spec.Variables[bpf.LbVarMasterMac].Set([6]byte(mac)); err != nil {
		return nil, fmt.Errorf("set the master's MAC: %w", err)
	}
	progs := &bpf.LbPrograms{}
	opts := &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: d.pins}}
	if err := spec.LoadAndAssign(progs, opts); err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	return progs, nil
}

func (d *Dataplane) programPin(index int, dir bpf.LbDirection) string {
	return filepath.Join(d.pins, programPrefix(dir)+strconv.Itoa(index))
}

// programPrefix is what the names of a direction's pinned programs begin with; the interface's number follows.
func programPrefix(dir bpf.LbDirection) string { return "lb_" + directionName(dir) + "-" }

// pinnedMasters lists the interfaces for which programs are pinned.
func (d *Dataplane) pinnedMasters() ([]int, error) {
	entries, err := os.ReadDir(d.pins)
	if err != nil {
		return nil, fmt.Errorf("list pinned programs: %w", err)
	}
	var indexes []int
	for _, e := range entries {
		for _, dir := range directions {
			number, ok := strings.CutPrefix(e.Name(), programPrefix(dir))
			if !ok {
				continue
			}
			index, err := strconv.Atoi(number)
			if err != nil {
				return nil, fmt.Errorf("pinned program %s: not a name of ours; remove it", filepath.Join(d.pins, e.Name()))
			}
			indexes = append(indexes, index)
		}
	}
	return indexes, nil
}

// pinProgram makes path name prog, so that a person finds the program that is in force.
func pinProgram(prog *ebpf.Program, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin the former program: %w", err)
	}
	if err := prog.Pin(path); err != nil {
		return fmt.Errorf("pin the program as %s: %w", path, err)
	}
	return nil
}
