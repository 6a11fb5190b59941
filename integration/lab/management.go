// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
)

// The management network leads from each node's eth0 to a bridge on Control, which has the last address. Nothing else is on
// it, and it leads nowhere.
var (
	firstManaged = mustDual("172.30.0.1/24", "fd00:30::1/64")
	controlAddr  = mustDual("172.30.0.254/24", "fd00:30::fe/64")
)

// managementCard is the nodes' interface on the management network.
const managementCard = "eth0"

// connectManagement lays the cables of the management network, and gives its addresses.
func (l *Lab) connectManagement() error {
	if err := l.Control.addBridge(); err != nil {
		return err
	}
	err := with(l.Control.netns(), func(nl netlinksafe.Handle) error { return up(nl, bridgeName, controlAddr) })
	if err != nil {
		return err
	}
	l.Control.have(controlAddr)
	addr := firstManaged
	for _, n := range l.nodes {
		if err := l.Control.plug(n.Host, managementCard, addr, false); err != nil {
			return fmt.Errorf("connect %s to the management network: %w", n.Name, err)
		}
		n.Internal = addr.ip4.Addr()
		addr = addr.next()
	}
	return nil
}

// Dial connects to an address, which must be no name, as a program on the host does.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial from %s: %w", h.Name, err) // a look-up would leave the thread, and with it the host
	}
	var conn net.Conn
	err := h.inside(h.netns(), func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens on a TCP address, which must be no name, as a program on the host does.
func (h *Host) Listen(ctx context.Context, address string) (net.Listener, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", h.Name, err)
	}
	var listener net.Listener
	err := h.inside(h.netns(), func() (err error) {
		listener, err = new(net.ListenConfig).Listen(ctx, "tcp", address)
		return err
	})
	return listener, err
}
