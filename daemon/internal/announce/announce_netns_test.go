// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"bytes"
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/testutils"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/internal/testkit"
)

// The frames of a real socket arrive at the other end of a cable, as they were made:
//
//	Announcer - node0 ======= peer0 - capture
func TestFramesReachTheWire(t *testing.T) {
	testkit.Require(t, testkit.Root)
	const patience = 10 * time.Second
	netns := mustNetns(t)
	v := vip1
	var a *Announcer
	var capture *packet.Conn
	mustDo(t, netns, func() (err error) {
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "node0", HardwareAddr: v.MAC[:]}, PeerName: "peer0",
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		for _, name := range []string{"node0", "peer0"} {
			link, err := netlinksafe.LinkByName(name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(link); err != nil {
				return err
			}
		}
		v.IfIndex = veth.Index
		peer, err := net.InterfaceByName("peer0")
		if err != nil {
			return err
		}
		if capture, err = packet.Listen(peer, packet.Raw, etherTypeARP, nil); err != nil {
			return err
		}
		a, err = Open(quiet)
		return err
	})
	defer capture.Close()
	if err := capture.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	a.Set([]VIP{v})
	got := make([]byte, 2*frameLen)
	for i, want := range [][]byte{request(v.MAC, v.Addr), reply(v.MAC, v.Addr), request(v.MAC, v.Addr)} {
		n, _, err := capture.ReadFrom(got)
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if !bytes.Equal(got[:n], want) {
			t.Errorf("frame %d:\n got %x\nwant %x", i, got[:n], want)
		}
	}
	cancel()
	if err := errors.Join(<-ended, a.Close()); err != nil {
		t.Error(err)
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
