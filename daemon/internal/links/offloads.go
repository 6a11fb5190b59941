// SPDX-License-Identifier: Apache-2.0

package links

import (
	"errors"
	"fmt"

	"github.com/safchain/ethtool"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// told are the offloads that Compile wants to know of.
var told = []lb.Offload{lb.LRO, lb.L2Forward}

// offloads remembers which of them are on: to ask costs three calls, a node has an interface for each pod, and the kernel
// speaks of an interface whose features change (NETDEV_FEAT_CHANGE, rtnetlink_event in net/core/rtnetlink.c).
type offloads map[int][]lb.Offload // by index

// fill writes its offloads into each of the listed interfaces. It must run in their network namespace.
func (o *offloads) fill(links []lb.Link, heard news) error {
	kernel, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("open a socket to read the features of interfaces: %w", err)
	}
	defer kernel.Close()
	is := make(offloads, len(links))
	for i := range links {
		l := &links[i]
		on, known := (*o)[l.Index]
		if !known || heard.all || heard.touched[l.Index] {
			if on, err = readOffloads(kernel, l.Name); err != nil {
				return err
			}
		}
		l.Offloads, is[l.Index] = on, on
	}
	*o = is
	return nil
}

// readOffloads asks an interface for its features. One that is gone or renamed by now is spoken of again, and has none until
// then.
func readOffloads(kernel *ethtool.Ethtool, name string) ([]lb.Offload, error) {
	features, err := kernel.Features(name)
	if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil, fmt.Errorf("read the features of interface %s: %w", name, err)
	}
	var on []lb.Offload
	for _, offload := range told {
		if features[string(offload)] {
			on = append(on, offload)
		}
	}
	return on, nil
}
