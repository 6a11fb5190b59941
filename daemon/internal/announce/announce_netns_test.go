// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/testutils"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/internal/testkit"
)

const patience = 10 * time.Second

// The frames of a real socket arrive at the other end of a cable, as they were made.
func TestFramesReachTheWire(t *testing.T) {
	c := mustCable(t)
	four, six := c.vip(vip1), c.vip(vip6)
	for _, tt := range []struct {
		vip  VIP
		want [][]byte
	}{
		{four, [][]byte{request(four.MAC, four.Addr), reply(four.MAC, four.Addr), request(four.MAC, four.Addr)}},
		{six, [][]byte{advertisement(six.MAC, six.Addr), advertisement(six.MAC, six.Addr)}},
	} {
		stop := c.run(t, tt.vip)
		for i, want := range tt.want {
			got := c.next(t, func(frame []byte) bool { return bytes.Equal(frame[:14], tt.want[0][:14]) })
			if !bytes.Equal(got, want) {
				t.Errorf("%s, frame %d:\n got %x\nwant %x", tt.vip.Addr, i, got, want)
			}
		}
		stop()
	}
}

// A switch that snoops learns from MLD reports (RFC 3810 section 5.2) on which port the group of an IPv6 VIP is wanted; the
// kernel sends one when it joins, and another when the interface comes back.
func TestTheGroupOfAnIPv6VIPIsReportedToSwitches(t *testing.T) {
	c := mustCable(t)
	group := solicitedNode(vip6.Addr)
	stop := c.run(t, c.vip(vip6))
	c.expectReport(t, group, joins)
	if !strings.Contains(c.ip(t, "maddr", "show", "dev", "node0"), group.String()) {
		t.Errorf("%s is not among the groups of node0", group)
	}

	// Whoever owns the VIPs takes those of a master that is down out of the set.
	c.ip(t, "link", "set", "node0", "down")
	c.announcer.Set(nil)
	c.ip(t, "link", "set", "node0", "up")
	c.announcer.Set([]VIP{c.vip(vip6)})
	c.expectReport(t, group, joins)

	stop()
	c.expectReport(t, group, leaves)
	if shown := c.ip(t, "maddr", "show", "dev", "node0"); strings.Contains(shown, group.String()) {
		t.Errorf("%s is still among the groups of node0:\n%s", group, shown)
	}
}

// A new interface may even have the former's number.
func TestTheGroupIsJoinedOnAnInterfaceThatWasMadeAnew(t *testing.T) {
	c := mustCable(t)
	defer c.run(t, c.vip(vip6))()
	group := solicitedNode(vip6.Addr)
	c.expectReport(t, group, joins)
	c.ip(t, "link", "del", "node0")
	c.announcer.Set(nil)
	c.lay(t)
	c.announcer.Set([]VIP{c.vip(vip6)})
	c.expectReport(t, group, joins)
}

// wired is a cable in a network namespace of its own:
//
//	Announcer - node0 ======= peer0 - capture
type wired struct {
	netns     ns.NetNS
	announcer *Announcer
	capture   *packet.Conn
}

const node0Index = 77

func mustCable(t *testing.T) *wired {
	t.Helper()
	testkit.Require(t, testkit.Root)
	c := &wired{netns: mustNetns(t)}
	c.lay(t)
	mustDo(t, c.netns, func() (err error) {
		c.announcer, err = Open(quiet)
		return err
	})
	t.Cleanup(func() {
		if err := errors.Join(c.announcer.Close(), c.capture.Close()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// lay makes the cable, and listens at its end.
func (c *wired) lay(t *testing.T) {
	t.Helper()
	if c.capture != nil {
		_ = c.capture.Close()
	}
	c.ip(t, "link", "add", "node0", "index", fmt.Sprint(node0Index), "address", mac.String(), "type", "veth",
		"peer", "name", "peer0")
	c.ip(t, "link", "set", "peer0", "up")
	mustDo(t, c.netns, func() error {
		peer, err := net.InterfaceByName("peer0")
		if err != nil {
			return err
		}
		c.capture, err = packet.Listen(peer, packet.Raw, unix.ETH_P_ALL, nil)
		return err
	})
	c.ip(t, "link", "set", "node0", "up")
}

// ip runs the command in the cable's namespace and gives what it prints.
func (c *wired) ip(t *testing.T, args ...string) string {
	t.Helper()
	var out []byte
	mustDo(t, c.netns, func() (err error) {
		if out, err = exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
		return nil
	})
	return string(out)
}

func (c *wired) vip(v VIP) VIP {
	v.IfIndex = node0Index
	return v
}

// run announces a VIP until the returned function is called.
func (c *wired) run(t *testing.T, v VIP) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.netns.Do(func(ns.NetNS) error { return c.announcer.Run(ctx) }) }()
	c.announcer.Set([]VIP{v})
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// next gives the next frame on the wire that is wanted.
func (c *wired) next(t *testing.T, wanted func(frame []byte) bool) []byte {
	t.Helper()
	if err := c.capture.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for {
		frame := make([]byte, 1500)
		n, _, err := c.capture.ReadFrom(frame)
		if err != nil {
			t.Fatalf("wait for a frame: %v", err)
		}
		if n > 14 && wanted(frame[:n]) {
			return frame[:n]
		}
	}
}

// Types of a multicast address record (RFC 3810 section 5.2.5): changes to "exclude none" and "include none".
const (
	leaves = 3
	joins  = 4
)

// expectReport waits for an MLDv2 report with a record about a group.
func (c *wired) expectReport(t *testing.T, group netip.Addr, record byte) {
	t.Helper()
	const (
		hopByHop  = 14 + 40 // MLD messages carry the Router Alert option
		report    = hopByHop + 8
		records   = report + 8
		minRecord = 20
	)
	c.next(t, func(frame []byte) bool {
		if len(frame) < records || binary.BigEndian.Uint16(frame[12:]) != etherTypeIPv6 || frame[report] != 143 {
			return false
		}
		for r := frame[records:]; len(r) >= minRecord; r = r[minRecord+16*int(binary.BigEndian.Uint16(r[2:])):] {
			if r[0] == record && netip.AddrFrom16([16]byte(r[4:minRecord])) == group {
				return true
			}
		}
		return false
	})
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
