// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

// How long a confirmed TCP flow is remembered after its last packet. Established ones get what Cilium gives them; closed
// ones TIME_WAIT; after a reset nothing follows.
const (
	establishedAge = 8000 * time.Second
	closedAge      = 60 * time.Second
	resetAge       = 10 * time.Second

	batchSize = 8192
)

func (d *Dataplane) ageFlows() error {
	now, err := flowTime()
	if err != nil {
		return err
	}
	left, err := deleteFlows(d.maps.Flows, func(_ bpf.LbFlowKey, f bpf.LbFlow) bool {
		// Signed: a packet may have arrived since the clock was read.
		return time.Duration(int32(now-f.Seen))*flowTimeUnit > maxAge(f)
	})
	d.flowEntries.Store(int64(left))
	return err
}

func maxAge(f bpf.LbFlow) time.Duration {
	const closed = uint32(bpf.LbFlowFlagFLOW_FIN | bpf.LbFlowFlagFLOW_PEER_FIN)
	switch {
	case f.Flags&uint32(bpf.LbFlowFlagFLOW_RESET) != 0:
		return resetAge
	case f.Flags&closed == closed:
		return closedAge
	}
	return establishedAge
}

// movedPods lists the pods that the maps hold and State does not have, or not at that address.
func (d *Dataplane) movedPods() (map[bpf.LbAddressKey]ether.MAC, error) {
	stale, err := d.addresses.Stale()
	if err != nil {
		return nil, err
	}
	moved := map[bpf.LbAddressKey]ether.MAC{}
	for key, info := range stale {
		now, _ := d.addresses.Wanted(key)
		if info.Kind == uint8(bpf.LbAddressKindADDRESS_POD) && (now.Kind != info.Kind || now.Mac != info.Mac) {
			moved[key] = info.Mac
		}
	}
	return moved, nil
}

// forgetFlows removes every flow to pods that are gone: another pod may get the address, and UDP clients must move on.
func (d *Dataplane) forgetFlows(gone map[bpf.LbAddressKey]ether.MAC) error {
	if len(gone) == 0 {
		return nil
	}
	return d.forget(func(key bpf.LbFlowKey, f bpf.LbFlow) bool {
		pod, mac := podOf(key, f)
		was, ok := gone[pod]
		return ok && (mac == nil || was == *mac)
	})
}

// podOf tells which pod a flow is of: by its address and, where the flow says it, its MAC.
func podOf(key bpf.LbFlowKey, f bpf.LbFlow) (pod bpf.LbAddressKey, mac *ether.MAC) {
	if f.Flags&uint32(bpf.LbFlowFlagFLOW_REPLY) != 0 {
		return bpf.LbAddressKey{Addr: key.Src, Ifindex: key.Ifindex}, nil
	}
	to := ether.MAC(f.Mac)
	return bpf.LbAddressKey{Addr: f.Dst, Ifindex: key.Ifindex}, &to
}

// forgetLeftovers removes every flow and choice on interfaces that are none of the masters: the next interface may have the
// number of one that is gone. At first it also removes the flows to pods that are not there, though no address tells of them: the
// last agent may have died after it had removed the address, and before the flows.
func (d *Dataplane) forgetLeftovers(masters []lb.Master) error {
	if !d.leftover {
		return nil
	}
	kept := make(map[uint32]bool, len(masters))
	for _, m := range masters {
		kept[uint32(m.Index)] = true
	}
	err := d.forget(func(key bpf.LbFlowKey, f bpf.LbFlow) bool {
		pod, mac := podOf(key, f)
		info, ok := d.addresses.Wanted(pod)
		isPod := ok && info.Kind == uint8(bpf.LbAddressKindADDRESS_POD) && (mac == nil || *mac == info.Mac)
		return !kept[key.Ifindex] || d.inherited && !isPod
	})
	_, choices := deleteFlows(d.maps.Selections, func(key bpf.LbFlowKey, _ bpf.LbSelection) bool { return !kept[key.Ifindex] })
	err = errors.Join(err, choices)
	d.leftover, d.inherited = err != nil, err != nil && d.inherited
	return err
}

// forget removes the flows that match says from every map of flows.
func (d *Dataplane) forget(match func(bpf.LbFlowKey, bpf.LbFlow) bool) error {
	var errs []error
	for _, m := range []*ebpf.Map{d.maps.Flows, d.maps.HalfOpen, d.maps.Datagrams} {
		_, err := deleteFlows(m, match)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// deleteFlows walks a map of flows, or of choices, in batches and deletes what match says. It returns how many entries it
// left.
func deleteFlows[V bpf.LbFlow | bpf.LbSelection](m *ebpf.Map, match func(bpf.LbFlowKey, V) bool) (int, error) {
	var (
		cursor ebpf.MapBatchCursor
		keys   = make([]bpf.LbFlowKey, batchSize)
		values = make([]V, batchSize)
		left   int
		errs   []error
	)
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return left, fmt.Errorf("walk flows: %w", errors.Join(append(errs, err)...))
		}
		for i := range n {
			if !match(keys[i], values[i]) {
				left++
				continue
			}
			if derr := deleteFlow(m, keys[i], match); derr != nil {
				errs = append(errs, fmt.Errorf("delete flow: %w", derr))
			}
		}
		if err != nil {
			return left, errors.Join(errs...)
		}
	}
}

// deleteFlow deletes an entry that a batch has told of, if match still says so. Milliseconds may have passed since, in which the
// client's next connection by the same port came to have the key: to lose that entry would break the connection. What changes
// between the two looks that are left, some microseconds, is put back.
func deleteFlow[V bpf.LbFlow | bpf.LbSelection](m *ebpf.Map, key bpf.LbFlowKey, match func(bpf.LbFlowKey, V) bool) error {
	var value V
	err := m.Lookup(key, &value)
	if err == nil && match(key, value) {
		if err = m.LookupAndDelete(key, &value); err == nil && !match(key, value) {
			if err = m.Update(key, value, ebpf.UpdateNoExist); errors.Is(err, ebpf.ErrKeyExist) {
				return nil // it is there anew
			}
		}
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

// flowTimeUnit is the unit of a flow's Seen: 2^30 ns.
const flowTimeUnit = time.Duration(1 << 30)

// flowTime reads the clock of the programs: bpf_ktime_get_coarse_ns is CLOCK_MONOTONIC_COARSE.
func flowTime() (uint32, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return uint32(ts.Nano() / int64(flowTimeUnit)), nil
}
