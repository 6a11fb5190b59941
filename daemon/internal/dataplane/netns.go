// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netnsID gives the number by which this network namespace knows the one at path, and has it numbered if it is not yet
// (RTM_NEWNSID). The programs need the number to ask the pod's sockets. It is -1 where there is none. The error wraps
// os.ErrNotExist if there is no namespace at path.
func netnsID(path string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return -1, err
	}
	defer f.Close()
	id, err := netlink.GetNetNsIdByFd(int(f.Fd()))
	if errors.Is(err, unix.EINVAL) { // a name without a namespace mounted on it
		return -1, fmt.Errorf("%s is no network namespace: %w", path, os.ErrNotExist)
	}
	if err != nil {
		return -1, fmt.Errorf("get the id of %s: %w", path, err)
	}
	if id >= 0 {
		return id, nil
	}
	// -1 lets the kernel choose.
	if err := netlink.SetNetNsIdByFd(int(f.Fd()), -1); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, fmt.Errorf("assign an id to %s: %w", path, err)
	}
	if id, err = netlink.GetNetNsIdByFd(int(f.Fd())); err != nil {
		return -1, fmt.Errorf("get the id of %s: %w", path, err)
	}
	return id, nil
}
