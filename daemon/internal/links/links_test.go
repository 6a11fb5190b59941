// SPDX-License-Identifier: Apache-2.0

package links

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/testutils"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

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
		diff = cmp.Diff(want, got, cmpopts.IgnoreFields(lb.Link{}, "Index"), cmpopts.EquateEmpty(),
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
