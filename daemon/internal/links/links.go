// SPDX-License-Identifier: Apache-2.0

// Package links owns what is known of the node's Ethernet interfaces: it lists them, and again whenever the kernel says that
// one changed, and it knows on which of them a pod's interface lies. It must not change an interface.
package links

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

const (
	// settle is how long changes are collected before the interfaces are listed again: a pod that starts makes several.
	settle = 5 * time.Millisecond
	// retry is how long Run waits before it subscribes again after an error.
	retry = time.Second
)

// Set is the interfaces of one network namespace.
type Set struct {
	notify func()
	log    *slog.Logger

	offloads offloads // of the goroutine that refreshes

	mu     sync.Mutex
	links  []lb.Link // guarded by mu; replaced, never changed
	epochs epochs    // guarded by mu
}

// Open lists the interfaces of the calling thread's network namespace. Run calls notify after each change; it must not
// block.
func Open(notify func(), logger *slog.Logger) (*Set, error) {
	s := &Set{log: logger, epochs: epochs{}}
	if err := s.refresh(news{}); err != nil {
		return nil, err
	}
	s.notify = notify
	return s, nil
}

// Snapshot gives the interfaces that have a 48-bit MAC, sorted by index. Nobody may change the answer.
func (s *Set) Snapshot() []lb.Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.links
}

// Run follows the kernel until ctx ends, and then returns nil. It must run in the network namespace of Open. After an
// error it subscribes anew and lists everything again.
func (s *Set) Run(ctx context.Context) error {
	for {
		err := s.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.log.Warn("following the node's interfaces failed, starting again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retry):
		}
	}
}

// follow subscribes and lists until ctx ends or something fails.
func (s *Set) follow(ctx context.Context) error {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return fmt.Errorf("subscribe to changes of links and addresses: %w", err)
	}
	heard := newJournal()
	heard.missed() // what changed before the subscription
	failed := make(chan error, 1)
	var reader sync.WaitGroup
	reader.Go(func() { failed <- heard.read(socket) })
	defer reader.Wait()
	defer socket.Close() // ends the reader
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return err
		case <-heard.changed:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(settle):
		}
		if err := s.refresh(heard.take()); err != nil {
			return err
		}
	}
}

// refresh lists the interfaces and notifies if they differ from the last list, or did in between.
func (s *Set) refresh(heard news) error {
	links, err := list()
	if err == nil {
		err = s.offloads.fill(links, heard)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.epochs.stamp(links, heard)
	same := reflect.DeepEqual(links, s.links)
	s.links = links
	s.mu.Unlock()
	if !same && s.notify != nil {
		s.notify()
	}
	return nil
}

// list dumps the links and addresses of the calling thread's network namespace.
func list() ([]lb.Link, error) {
	links, err := netlinksafe.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addrs, err := netlinksafe.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	byIndex := make(map[int][]netip.Addr)
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			byIndex[a.LinkIndex] = append(byIndex[a.LinkIndex], addr.Unmap())
		}
	}
	lower := lowerLinks(links)
	out := make([]lb.Link, 0, len(links))
	for _, l := range links {
		attrs := l.Attrs()
		mac, err := ether.FromSlice(attrs.HardwareAddr)
		if err != nil || attrs.EncapType != "ether" || attrs.Flags&net.FlagLoopback != 0 {
			continue
		}
		own := byIndex[attrs.Index]
		slices.SortFunc(own, netip.Addr.Compare)
		out = append(out, lb.Link{
			Name: attrs.Name, Index: attrs.Index, MAC: mac, MTU: attrs.MTU, Up: isUp(attrs), Addrs: own, Lower: lower[attrs.Index],
		})
	}
	slices.SortFunc(out, func(a, b lb.Link) int { return cmp.Compare(a.Index, b.Index) })
	return out, nil
}

// lowerLinks gives the indexes of the interfaces that each one's frames come through, sorted: of a VLAN its parent, of a bond
// or a bridge its ports. Of other kinds the kernel may call something their parent that is not: a veth's is its peer.
func lowerLinks(links []netlink.Link) map[int][]int {
	lower := make(map[int][]int)
	for _, l := range links {
		attrs := l.Attrs()
		if l.Type() == "vlan" && attrs.ParentIndex != 0 && attrs.NetNsID < 0 {
			lower[attrs.Index] = append(lower[attrs.Index], attrs.ParentIndex)
		}
		if attrs.MasterIndex != 0 {
			lower[attrs.MasterIndex] = append(lower[attrs.MasterIndex], attrs.Index)
		}
	}
	for _, of := range lower {
		slices.Sort(of)
	}
	return lower
}

// isUp tells whether frames can pass: the interface is set up and has carrier. Drivers that know of no carrier leave the
// operational state unknown, which RFC 2863 section 3.1.12 and the kernel count as up.
func isUp(attrs *netlink.LinkAttrs) bool {
	return attrs.Flags&net.FlagUp != 0 &&
		(attrs.OperState == netlink.OperUp || attrs.OperState == netlink.OperUnknown)
}
