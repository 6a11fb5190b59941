// SPDX-License-Identifier: Apache-2.0

package links

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/testutils"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
	"github.com/sluice-lb/sluice/internal/testkit"
)

const (
	deadline = 10 * time.Second
	linkMTU  = 1400
)

func TestSetFollowsTheKernel(t *testing.T) {
	testkit.Require(t, testkit.Root)
	node := mustNetns(t)
	notified := make(chan struct{}, 1)
	var set *Set
	mustDo(t, node, func() error {
		var err error
		set, err = Open(func() {
			select {
			case notified <- struct{}{}:
			default:
			}
		}, slog.New(slog.DiscardHandler))
		return err
	})
	if got := set.Snapshot(); len(got) != 0 {
		t.Fatalf("a namespace with loopback alone has %v", got)
	}
	defer run(t, node, set)()

	eth1 := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{
			Name: "eth1", MTU: linkMTU, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1},
		},
		PeerName: "peer", PeerHardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 2},
	}
	mustDo(t, node, func() error { return netlink.LinkAdd(eth1) })
	want := lb.Link{Name: "eth1", MAC: ether.MAC{2, 0, 0, 0, 0, 1}, MTU: linkMTU}
	await(t, set, notified, want)

	mustDo(t, node, func() error {
		if err := netlink.LinkSetUp(eth1); err != nil {
			return err
		}
		return netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "peer"}})
	})
	want.Up = true
	await(t, set, notified, want)

	mustDo(t, node, func() error {
		for _, text := range []string{"192.168.20.3/24", "192.168.20.2/24"} {
			addr, err := netlink.ParseAddr(text)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(eth1, addr); err != nil {
				return err
			}
		}
		return nil
	})
	want.Addrs = []netip.Addr{netip.MustParseAddr("192.168.20.2"), netip.MustParseAddr("192.168.20.3")}
	await(t, set, notified, want)

	mustDo(t, node, func() error {
		return netlink.LinkSetDown(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "peer"}})
	})
	want.Up = false // no carrier
	await(t, set, notified, want)

	mustDo(t, node, func() error { return netlink.LinkDel(eth1) })
	await(t, set, notified, lb.Link{})
}

// What a list cannot show must change the epoch, and nothing else may: an MTU, a MAC or a name interrupts nobody.
func TestEpochTellsWhatTwoListsDoNot(t *testing.T) {
	testkit.Require(t, testkit.Root)
	node, other := mustNetns(t), mustNetns(t)
	notified := make(chan struct{}, 1)
	var set *Set
	mustDo(t, node, func() (err error) {
		if err := addUp("eth1", 100); err != nil {
			return err
		}
		set, err = Open(func() {
			select {
			case notified <- struct{}{}:
			default:
			}
		}, slog.New(slog.DiscardHandler))
		return err
	})
	defer run(t, node, set)()
	eth1 := func() (l netlink.Link) {
		mustDo(t, node, func() (err error) { l, err = netlink.LinkByIndex(100); return err })
		return l
	}
	epoch := mustEpoch(t, node, set, notified, func(uint64) bool { return true })
	for _, tt := range []struct {
		name   string
		change func() error
		same   bool
	}{
		{"MTU", func() error { return netlink.LinkSetMTU(eth1(), 1300) }, true},
		{"MAC", func() error { return netlink.LinkSetHardwareAddr(eth1(), net.HardwareAddr{2, 0, 0, 0, 0, 9}) }, true},
		{"name", func() error { return netlink.LinkSetName(eth1(), "eth9") }, true},
		{"name again", func() error { return netlink.LinkSetName(eth1(), "eth1") }, true},
		{"down and up", func() error { return errors.Join(netlink.LinkSetDown(eth1()), netlink.LinkSetUp(eth1())) }, false},
		{"another one of the same number, name and MAC", func() error {
			mac := eth1().Attrs().HardwareAddr
			return errors.Join(netlink.LinkDel(eth1()), addUp("eth1", 100), netlink.LinkSetHardwareAddr(eth1(), mac))
		}, false},
		{"away and back", func() error {
			if err := netlink.LinkSetNsFd(eth1(), int(other.Fd())); err != nil {
				return err
			}
			err := other.Do(func(ns.NetNS) error {
				l, err := netlinksafe.LinkByName("eth1")
				if err != nil {
					return err
				}
				return netlink.LinkSetNsFd(l, int(node.Fd()))
			})
			return errors.Join(err, netlink.LinkSetUp(eth1()))
		}, false},
	} {
		mustDo(t, node, tt.change)
		now := mustEpoch(t, node, set, notified, func(now uint64) bool { return tt.same || now != epoch })
		if tt.same && now != epoch {
			t.Errorf("%s: epoch %d became %d", tt.name, epoch, now)
		}
		epoch = now
	}
}

// A socket that overran has forgotten what happened to whom.
func TestMissedMessagesMayHaveConcernedAnyInterface(t *testing.T) {
	links := []lb.Link{{Index: 1}, {Index: 2}}
	var e epochs
	e.stamp(links, news{})
	before := slices.Clone(links)
	e.stamp(links, news{lost: map[int]bool{2: true}})
	if links[0].Epoch != before[0].Epoch || links[1].Epoch == before[1].Epoch {
		t.Errorf("2 was lost, and %v became %v", before, links)
	}
	before = slices.Clone(links)
	e.stamp(links, news{all: true})
	if links[0].Epoch == before[0].Epoch || links[1].Epoch == before[1].Epoch {
		t.Errorf("messages were missed, and %v became %v", before, links)
	}
	before = slices.Clone(links)
	e.stamp(nil, news{})
	e.stamp(links, news{})
	if links[0].Epoch == before[0].Epoch {
		t.Error("an index that comes back has its old epoch")
	}
}

// A bond that changes over to another card is up all the time, but its neighbours must learn the way anew. The kernel's
// messages say so, also for VLANs above it and for a virtual machine that has moved (rtnetlink_event, net/core/rtnetlink.c).
func TestAnEventThatMovesAnInterfaceIsALoss(t *testing.T) {
	for event, want := range map[uint32]bool{
		unix.IFLA_EVENT_NONE:             false,
		unix.IFLA_EVENT_FEATURES:         false,
		unix.IFLA_EVENT_BONDING_FAILOVER: true,
		unix.IFLA_EVENT_NOTIFY_PEERS:     true,
		unix.IFLA_EVENT_IGMP_RESEND:      false,
		unix.IFLA_EVENT_BONDING_OPTIONS:  false,
	} {
		info := nl.NewIfInfomsg(unix.AF_UNSPEC)
		info.Index, info.Flags = 7, unix.IFF_UP|unix.IFF_RUNNING
		name := nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("bond0"))
		data := slices.Concat(info.Serialize(), name.Serialize(),
			nl.NewRtAttr(unix.IFLA_EVENT, nl.Uint32Attr(event)).Serialize())
		message := syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWLINK}, Data: data}
		heard := newJournal()
		heard.note([]syscall.NetlinkMessage{message})
		if n := heard.take(); n.lost[7] != want || !n.touched[7] {
			t.Errorf("event %d: lost %v, touched %v, want 7 lost: %t", event, n.lost, n.touched, want)
		}
	}
}

// Overrunning the socket is no reason to stop reading: a master may flap next.
func TestABurstThatOverrunsTheSocketIsNoted(t *testing.T) {
	testkit.Require(t, testkit.Root)
	node := mustNetns(t)
	var socket *nl.NetlinkSocket
	mustDo(t, node, func() (err error) {
		if socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK); err != nil {
			return err
		}
		if err := socket.SetReceiveBufferSize(1, false); err != nil { // the kernel takes its least
			return err
		}
		for i := range 20 {
			if err := addUp(fmt.Sprintf("burst%d", i), 0); err != nil {
				return err
			}
		}
		return nil
	})
	heard := newJournal()
	ended := make(chan error, 1)
	go func() { ended <- heard.read(socket) }()
	expect := func(what string, is func(news) bool) {
		t.Helper()
		timeout := time.After(deadline)
		for {
			select {
			case <-heard.changed:
				if is(heard.take()) {
					return
				}
			case err := <-ended:
				t.Fatalf("reading ended: %v", err)
			case <-timeout:
				t.Fatalf("not noted: %s", what)
			}
		}
	}
	expect("that messages were missed", func(n news) bool { return n.all })
	if err := socket.SetReceiveBufferSize(1<<20, false); err != nil { // so that a slow machine overruns it only once
		t.Fatal(err)
	}
	mustDo(t, node, func() error { return addUp("eth1", 100) })
	expect("a new interface, which is down at first", func(n news) bool { return n.lost[100] })
	socket.Close()
	if err := <-ended; err == nil {
		t.Error("reading a closed socket ended without an error")
	}
}

// addUp adds a veth pair with the index, set up at both ends; the other is called NAMEp.
func addUp(name string, index int) error {
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, Index: index}, PeerName: name + "p"}
	return errors.Join(netlink.LinkAdd(veth), netlink.LinkSetUp(veth),
		netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: name + "p"}}))
}

// mustEpoch waits until the Set has listed anew, which a change of another interface makes it do, and interface 100 is up
// with an epoch as wanted. It gives the epoch.
func mustEpoch(t *testing.T, node ns.NetNS, set *Set, notified <-chan struct{}, want func(uint64) bool) uint64 {
	t.Helper()
	other := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "other"}, PeerName: "otherp"}
	mustDo(t, node, func() error { return netlink.LinkAdd(other) })
	defer mustDo(t, node, func() error { return netlink.LinkDel(other) })
	timeout := time.After(deadline)
	for {
		links := set.Snapshot()
		i := slices.IndexFunc(links, func(l lb.Link) bool { return l.Index == 100 })
		if slices.ContainsFunc(links, func(l lb.Link) bool { return l.Name == other.Name }) && i >= 0 && links[i].Up &&
			want(links[i].Epoch) {
			return links[i].Epoch
		}
		select {
		case <-notified:
		case <-timeout:
			t.Fatalf("after %s: %+v", deadline, links)
		}
	}
}

// run runs the Set in a namespace until the returned function is called.
func run(t *testing.T, node ns.NetNS, set *Set) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- node.Do(func(ns.NetNS) error { return set.Run(ctx) })
	}()
	return func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(deadline):
			t.Error("Run does not end with its context")
		}
	}
}

// await waits until eth1 is as wanted; the zero Link means that it is not there. Link-local addresses do not count: the
// kernel sets them when it likes.
func await(t *testing.T, set *Set, notified <-chan struct{}, want lb.Link) {
	t.Helper()
	var diff string
	timeout := time.After(deadline)
	for {
		var got lb.Link
		for _, l := range set.Snapshot() {
			if l.Name == "eth1" {
				got = l
				got.Addrs = slices.DeleteFunc(slices.Clone(l.Addrs), netip.Addr.IsLinkLocalUnicast)
			}
		}
		diff = cmp.Diff(want, got, cmpopts.IgnoreFields(lb.Link{}, "Index", "Epoch"), cmpopts.EquateEmpty(),
			cmpopts.EquateComparable(netip.Addr{}))
		if diff == "" {
			return
		}
		select {
		case <-notified:
		case <-timeout:
			t.Fatalf("after %s (-want +got):\n%s", deadline, diff)
		}
	}
}

func mustNetns(t *testing.T) ns.NetNS {
	t.Helper()
	netns, err := testutils.NewNS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// In this order: the open file keeps the mount busy.
		if err := errors.Join(netns.Close(), testutils.UnmountNS(netns)); err != nil {
			t.Error(err)
		}
	})
	return netns
}

func mustDo(t *testing.T, netns ns.NetNS, fn func() error) {
	t.Helper()
	if err := netns.Do(func(ns.NetNS) error { return fn() }); err != nil {
		t.Fatal(err)
	}
}
