// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// membership is a multicast group on an interface. It ends when another interface takes the index, unheard.
type membership struct {
	ifindex int
	epoch   uint64
	group   netip.Addr
}

// groups holds the solicited-node groups of the VIPs. Without them a switch that snoops on MLD would not bring us the
// solicitations, and a NIC's filter would not let them in. VIPs that agree in their last 24 bits share a group.
//
// Membership ends with the process: on a switch that snoops, a VIP is found by new neighbours only while it runs.
type groups struct {
	log  *slog.Logger
	join func(membership) (io.Closer, error) // closing leaves

	want map[membership]string // the interface's name, for people
	held map[membership]io.Closer
	ill  map[membership]bool // could not be joined the last time
	due  time.Time           // of the next attempt; zero if there is nothing to join
}

func newGroups(log *slog.Logger, join func(membership) (io.Closer, error)) *groups {
	return &groups{log: log, join: join, held: map[membership]io.Closer{}, ill: map[membership]bool{}}
}

// set says which VIPs there are. It leaves what they do not need, and makes joining due.
func (g *groups) set(vips []VIP, now time.Time) {
	g.want = map[membership]string{}
	for _, v := range vips {
		if v.Addr.Is6() {
			g.want[membership{v.IfIndex, v.Epoch, solicitedNode(v.Addr)}] = v.IfName
		}
	}
	for m := range g.held {
		if _, wanted := g.want[m]; !wanted {
			g.leave(m)
		}
	}
	for m := range g.ill {
		if _, wanted := g.want[m]; !wanted {
			delete(g.ill, m)
		}
	}
	g.due = now
}

// joinDue joins what is not joined yet, if that is due.
func (g *groups) joinDue(now time.Time) {
	if g.due.IsZero() || g.due.After(now) {
		return
	}
	g.due = time.Time{}
	for m, ifname := range g.want {
		if g.held[m] != nil {
			continue
		}
		socket, err := g.join(m)
		if err != nil {
			if !g.ill[m] {
				g.log.Warn("joining the multicast group of an IPv6 VIP failed, trying again every second: until then switches "+
					"that snoop on MLD may not bring its solicitations", "group", m.group, "ifname", ifname, "err", err)
			}
			g.ill[m] = true
			g.due = now.Add(again)
			continue
		}
		if g.ill[m] {
			delete(g.ill, m)
			g.log.Info("joining the multicast group of an IPv6 VIP works again", "group", m.group, "ifname", ifname)
		}
		g.held[m] = socket
	}
}

// leaveAll leaves every group.
func (g *groups) leaveAll() {
	for m := range g.held {
		g.leave(m)
	}
}

func (g *groups) leave(m membership) {
	if err := g.held[m].Close(); err != nil {
		g.log.Warn("leaving a multicast group failed", "group", m.group, "ifindex", m.ifindex, "err", err)
	}
	delete(g.held, m)
}

// joinGroup joins a group in the calling thread's network namespace until the socket is closed. Each has a socket of its own:
// one can hold a few hundred at most (net.core.optmem_max), and keeps those of an interface that is gone.
func joinGroup(m membership) (io.Closer, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open an IPv6 socket: %w", err)
	}
	socket := os.NewFile(uintptr(fd), m.group.String())
	request := &unix.IPv6Mreq{Multiaddr: m.group.As16(), Interface: uint32(m.ifindex)}
	if err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, request); err != nil {
		_ = socket.Close()
		return nil, fmt.Errorf("join %s on interface %d: %w", m.group, m.ifindex, err)
	}
	return socket, nil
}
