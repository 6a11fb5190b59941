// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bpf/bpftest"
	"github.com/sluice-lb/sluice/internal/ether"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// The pod's real TCP, and the programs that ask it. The programs run in the host's namespace, where the pod has an id.
//
//	host: sluice0 198.51.100.7 (client) ---- veth ---- net1 192.0.2.20 (alice): pod
//
// In IPv6 likewise.
type kernel struct {
	family
	t         *testing.T
	host, pod netns.NsHandle
	wire      *packet.Conn // what leaves the pod
	podMAC    ether.MAC
	hostMAC   ether.MAC
}

// podID is the pod's namespace id as the host numbers it.
const podID = 77

// stranger is an address that answers nothing, so that its connections stay half-open.
var stranger = netip.MustParseAddr("198.51.100.9")

// newKernel moves this goroutine's thread into the host's namespace for good; it dies with the test.
func newKernel(t *testing.T, f family) *kernel {
	t.Helper()
	testkit.Require(t, testkit.BPF, testkit.Root)
	runtime.LockOSThread() // and never unlocked
	k := &kernel{t: t, family: f}
	var err error
	if k.pod, err = netns.New(); err != nil {
		t.Fatalf("make the pod's namespace: %v", err)
	}
	t.Cleanup(func() { k.pod.Close() })
	if k.host, err = netns.New(); err != nil {
		t.Fatalf("make the host's namespace: %v", err)
	}
	t.Cleanup(func() { k.host.Close() })
	must(t, "number the pod's namespace", netlink.SetNetNsIdByFd(int(k.pod), podID))
	must(t, "make the veth pair", netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "sluice0"}, PeerName: "net1", PeerNamespace: netlink.NsFd(k.pod),
	}))
	k.hostMAC = k.mustConfigure("sluice0", client.Addr())
	k.inPod(func() { k.podMAC = k.mustConfigure("net1", alice.Addr) })
	k.inPod(func() { k.mustKnow("net1", stranger, k.hostMAC) })
	iface, err := net.InterfaceByName("sluice0")
	must(t, "find sluice0", err)
	k.wire, err = packet.Listen(iface, packet.Raw, map[family]int{ipv4: unix.ETH_P_IP, ipv6: unix.ETH_P_IPV6}[f], nil)
	must(t, "listen on sluice0", err)
	t.Cleanup(func() { k.wire.Close() })
	return k
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// inPod runs fn on this thread in the pod's namespace.
func (k *kernel) inPod(fn func()) {
	k.t.Helper()
	must(k.t, "enter the pod", netns.Set(k.pod))
	defer func() { must(k.t, "leave the pod", netns.Set(k.host)) }()
	fn()
}

// mustConfigure brings an interface up with one address, and a route to everything.
func (k *kernel) mustConfigure(name string, addr netip.Addr) ether.MAC {
	k.t.Helper()
	link, err := netlinksafe.LinkByName(name)
	must(k.t, "find "+name, err)
	must(k.t, "raise "+name, netlink.LinkSetUp(link))
	k.mustAddress(link, addr)
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		_, dst, err := net.ParseCIDR(all)
		must(k.t, "parse "+all, err)
		must(k.t, "route by "+name, netlink.RouteAdd(&netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK,
		}))
	}
	mac, err := ether.FromSlice(link.Attrs().HardwareAddr)
	must(k.t, "read the MAC of "+name, err)
	return mac
}

func (k *kernel) mustAddress(link netlink.Link, addr netip.Addr) {
	k.t.Helper()
	addr = k.addr(addr)
	host := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
	must(k.t, "address "+link.Attrs().Name, netlink.AddrAdd(link, &netlink.Addr{
		IPNet: host, Flags: unix.IFA_F_NODAD, // in use at once
	}))
}

func (k *kernel) mustKnow(name string, addr netip.Addr, mac ether.MAC) {
	k.t.Helper()
	link, err := netlinksafe.LinkByName(name)
	must(k.t, "find "+name, err)
	must(k.t, "add a neighbour", netlink.NeighAdd(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: k.addr(addr).AsSlice(), HardwareAddr: mac[:],
	}))
}

// mustListen opens alice's server.
func (k *kernel) mustListen() *net.TCPListener {
	k.t.Helper()
	var l *net.TCPListener
	k.inPod(func() {
		var err error
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(k.at(alice.At(target))))
		must(k.t, "listen in the pod", err)
	})
	k.t.Cleanup(func() { l.Close() })
	return l
}

// mustGreet sends the pod a SYN and returns the SYN-ACK that comes back. It repeats itself as a client would: a veth
// drops what is sent before the kernel has noticed that its peer is up.
func (k *kernel) mustGreet(from netip.AddrPort, seq uint32) bpftest.Transport {
	k.t.Helper()
	syn := k.packet(bpftest.TCP(from, alice.At(target), "S").Seq(seq).From(k.hostMAC).To(k.podMAC))
	for range 50 {
		_, err := k.wire.WriteTo(syn.Bytes(), &packet.Addr{HardwareAddr: k.podMAC[:]})
		must(k.t, "send a SYN", err)
		if answer, ok := k.mustAwaitSYNACK(from.Port(), 100*time.Millisecond); ok {
			return answer
		}
	}
	k.t.Fatal("the pod sent no SYN-ACK within 5 s")
	return bpftest.Transport{}
}

// mustAwaitSYNACK returns the next SYN-ACK to a port; false if none comes in time.
func (k *kernel) mustAwaitSYNACK(port uint16, timeout time.Duration) (bpftest.Transport, bool) {
	k.t.Helper()
	must(k.t, "set a deadline", k.wire.SetReadDeadline(time.Now().Add(timeout)))
	buf := make([]byte, 2048)
	for {
		n, _, err := k.wire.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return bpftest.Transport{}, false
		}
		must(k.t, "read from the wire", err)
		const flags, synAck = 13, 0x12
		l4, ok := bpftest.ReadTransport(buf[:n])
		if ok && l4.Proto == bpftest.ProtoTCP && l4.Header[flags] == synAck && l4.Dst.Port() == port {
			return l4, true
		}
	}
}

// mustDial connects the client to alice's server from the host's namespace. An IPv6 address is routed to only some time
// after it was added.
func (k *kernel) mustDial() *net.TCPConn {
	k.t.Helper()
	from, to := net.TCPAddrFromAddrPort(k.at(client)), net.TCPAddrFromAddrPort(k.at(alice.At(target)))
	deadline := time.Now().Add(5 * time.Second)
	for {
		conn, err := net.DialTCP("tcp", from, to)
		if err == nil {
			k.t.Cleanup(func() { conn.Close() })
			return conn
		}
		if !errors.Is(err, unix.ENETUNREACH) || time.Now().After(deadline) {
			k.t.Fatalf("connect to alice: %v", err)
		}
		runtime.Gosched()
	}
}

// newWorld gives the programs the usual world, in which the host knows alice's namespace.
func (k *kernel) newWorld() *world {
	k.t.Helper()
	w := newWorld(k.t, k.family, bpftest.Config{})
	w.giveAliceNetns()
	return w
}

func (w *world) giveAliceNetns() {
	p := alice
	p.Netns = podID
	w.tcp[toAlice].SetBackend(0, bpftest.Backend{Pod: p, Port: target, Local: true})
}

// mustConfirm sends a mid-stream segment to the VIP and tells whether its flow went into flows at once.
func (w *world) mustConfirm(t *testing.T, in bpftest.Packet, want bool) {
	t.Helper()
	in = in.From(router).To(bpftest.Master)
	w.mustStep(t, ingress(in, bpftest.OK, "NEW_FLOW").becomes(atAlice(in)))
	confirmed, waiting := w.Flows(w.LbMaps.Flows) != "", w.Flows(w.HalfOpen) != ""
	if confirmed != want || waiting == want {
		t.Errorf("in flows: %t, in half_open: %t; want %t, %t", confirmed, waiting, want, !want)
	}
}

func TestPodThatKnowsTheConnectionConfirmsIt(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		k := newKernel(t, f)
		k.mustListen()
		k.mustDial()
		t.Run("at the first packet", func(t *testing.T) {
			k.on(t).newWorld().mustConfirm(t, bpftest.TCP(client, toAlice, "P."), true)
		})
		t.Run("not another client's", func(t *testing.T) {
			k.on(t).newWorld().mustConfirm(t, bpftest.TCP(fromPort(40001), toAlice, "P."), false)
		})
		t.Run("later, once it has a namespace", func(t *testing.T) {
			k.on(t)
			w := newWorld(t, f, bpftest.Config{})
			w.mustConfirm(t, bpftest.TCP(client, toAlice, "P."), false)
			w.giveAliceNetns()
			w.mustStep(t, delivered("P.", "LOCAL"))
			w.mustEqualText(t, "flows", aliceFlow("", " reply"), w.Flows(w.LbMaps.Flows))
			w.mustEqualText(t, "half_open", "", w.Flows(w.HalfOpen))
		})
	})
}

func TestListenerAloneConfirmsNothing(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		k := newKernel(t, f)
		k.mustListen()
		k.newWorld().mustConfirm(t, bpftest.TCP(client, toAlice, "P."), false)
	})
}

// The helper takes a negative id for the caller's own namespace, which must not speak for a pod without one.
func TestHostsOwnSocketConfirmsNothing(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		k := newKernel(t, f)
		lo, err := netlinksafe.LinkByName("lo")
		must(t, "find lo", err)
		must(t, "raise lo", netlink.LinkSetUp(lo))
		k.mustAddress(lo, alice.Addr)
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(k.at(alice.At(target))))
		must(t, "listen on the host", err)
		defer l.Close()
		k.mustDial()
		newWorld(t, f, bpftest.Config{}).mustConfirm(t, bpftest.TCP(client, toAlice, "P."), false)
	})
}

// Anyone can send a SYN from any address; that the pod answers it does not make it a connection.
func TestHalfOpenSocketConfirmsNothing(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		k := newKernel(t, f)
		k.mustListen()
		from := netip.AddrPortFrom(stranger, 40000)
		k.mustGreet(from, 1000)
		k.newWorld().mustConfirm(t, bpftest.TCP(from, toAlice, ".").Seq(1001).Ack(12345), false)
	})
}

func TestSYNCookieConfirmsTheConnection(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		k := newKernel(t, f)
		k.inPod(func() { // always cookies, not only under pressure
			must(t, "turn on SYN cookies", os.WriteFile("/proc/sys/net/ipv4/tcp_syncookies", []byte("2"), 0))
		})
		k.mustListen()
		from := netip.AddrPortFrom(stranger, 40000)
		cookie := binary.BigEndian.Uint32(k.mustGreet(from, 1000).Header[4:])
		ack := bpftest.TCP(from, toAlice, ".").Seq(1001)
		t.Run("its ACK", func(t *testing.T) { k.on(t).newWorld().mustConfirm(t, ack.Ack(cookie+1), true) })
		t.Run("another ACK", func(t *testing.T) { k.on(t).newWorld().mustConfirm(t, ack.Ack(cookie+1000), false) })
	})
}

// on continues in a subtest, which runs on a thread of its own.
func (k *kernel) on(t *testing.T) *kernel {
	t.Helper()
	runtime.LockOSThread() // and never unlocked
	must(t, "enter the host", netns.Set(k.host))
	sub := *k
	sub.t = t
	return &sub
}
