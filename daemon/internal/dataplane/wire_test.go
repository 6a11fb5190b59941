// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/bpf/bpftest"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

const (
	// frameLength is what no frame but the tests' has, in octets.
	frameLength = 777
	// headersLength is Ethernet's, IPv4's and TCP's without options.
	headersLength = 14 + 20 + 20
)

// wire is the other end of a master's cable.
type wire struct {
	t      testing.TB
	socket int
	to     unix.SockaddrLinklayer
	master lb.Master
	port   uint16 // source port of the last frame: each begins a connection
}

func (n *node) wire(m lb.Master) *wire {
	n.t.Helper()
	peer, err := netlinksafe.LinkByName(m.Name + "p")
	must(n.t, err)
	must(n.t, netlink.LinkSetUp(peer))
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(n.t, err)
	n.t.Cleanup(func() { _ = unix.Close(socket) })
	return &wire{t: n.t, socket: socket, to: unix.SockaddrLinklayer{Ifindex: peer.Attrs().Index}, master: m, port: 1024}
}

// send puts count frames on the cable, each the first of a connection to an address.
func (w *wire) send(count int, to string) {
	w.t.Helper()
	for range count {
		w.port++
		from := netip.AddrPortFrom(netip.MustParseAddr("192.168.20.5"), w.port)
		frame := bpftest.TCP(from, netip.MustParseAddrPort(to), "S").
			From(ether.MAC{2, 0, 0, 0, 0, 5}).To(w.master.MAC).Payload(strings.Repeat("x", frameLength-headersLength)).Bytes()
		// No Fatal: this may be another goroutine than the test's.
		if err := unix.Sendto(w.socket, frame, 0, &w.to); err != nil {
			w.t.Error(err)
			return
		}
	}
}

// remoteState is state with the remote backend alone in the table, so that every frame to the VIP counts as remote.
func remoteState(m lb.Master) lb.State {
	s := state(m)
	s.Frontends[0].Backends[0].State = lb.BackendDraining
	return s
}

const (
	toVIP       = "192.168.20.240:80"
	toSomewhere = "192.168.20.99:80"
)

// balanced counts the frames that were sent on to the remote backend.
func balanced(t testing.TB, d *Dataplane) int {
	t.Helper()
	var perCPU []uint64
	slot := uint32(bpf.LbDirectionDIRECTION_INGRESS)*uint32(bpf.LbReasonREASON_MAX) + uint32(bpf.LbReasonREASON_REMOTE)
	must(t, d.maps.Counters.Lookup(slot, &perCPU))
	total := 0
	for _, n := range perCPU {
		total += int(n)
	}
	return total
}

// eventually waits until get gives want.
func eventually(t testing.TB, what string, want int, get func() int) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for got := get(); got != want; got = get() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d, want %d", what, got, want)
		}
		// The frames are on their way through this CPU's queue.
		_, _ = unix.Poll(nil, 1)
	}
}
