// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"time"
)

const (
	agePeriod = 10 * time.Second
	// lookPeriod bounds how long a program that somebody put before ours keeps packets from it. The kernel tells nobody
	// about tcx; a look costs a few system calls a master.
	lookPeriod = time.Second
)

// Run ages the confirmed flows, which no LRU evicts, and looks whether others changed what is attached to the masters,
// until ctx ends.
func (d *Dataplane) Run(ctx context.Context) error {
	age, look := time.NewTicker(agePeriod), time.NewTicker(lookPeriod)
	defer age.Stop()
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-age.C:
			if err := d.ageFlows(); err != nil {
				d.log.Error("flows do not age", "err", err)
			}
		case <-look.C:
			moved, err := d.placesMoved()
			if err != nil {
				d.log.Error("cannot see what is attached to the masters", "err", err)
			}
			if moved && d.notify != nil {
				d.notify()
			}
		}
	}
}
