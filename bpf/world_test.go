// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/bpf/bpftest"
	"github.com/sluice-lb/sluice/internal/ether"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// The world of most tests. Everything is on one segment; the client is behind a router.
//
//	client 198.51.100.7 -- router ---+--- this node .1 (master) --- pods alice .20 and bob .21
//	                                 +--- peer node (master) ------ pod  remi .120
//
//	VIP .240 is owned here, VIP .241 is owned by the peer; both nodes balance both.
//
// A world of IPv6 is the same: see family.addr.
var (
	router = ether.MAC{0x02, 0, 0, 0, 0, 0xcc}
	peer   = ether.MAC{0x02, 0, 0, 0, 0, 0x02}
	other  = ether.MAC{0x02, 0, 0, 0, 0, 0xee} // a station that is none of ours

	alice = pod(0x0a, "192.0.2.20")
	bob   = pod(0x0b, "192.0.2.21")
	remi  = pod(0x0c, "192.0.2.120")

	client  = netip.MustParseAddrPort("198.51.100.7:40000")
	node    = netip.MustParseAddr("192.0.2.1")
	vip     = netip.MustParseAddr("192.0.2.240")
	peerVIP = netip.MustParseAddr("192.0.2.241")
	nobody  = netip.MustParseAddr("192.0.2.9")

	// TCP and UDP alike; every backend listens on target.
	toAlice    = netip.AddrPortFrom(vip, 80)
	toBob      = netip.AddrPortFrom(vip, 81)
	toRemi     = netip.AddrPortFrom(vip, 82)
	toNothing  = netip.AddrPortFrom(vip, 83)     // a Service without backends
	unserved   = netip.AddrPortFrom(vip, 84)     // no Service
	toFew      = netip.AddrPortFrom(vip, 86)     // a Service for some clients alone: see ranges
	peerAlice  = netip.AddrPortFrom(peerVIP, 80) // the same pod behind another VIP
	peerRemi   = netip.AddrPortFrom(peerVIP, 82)
	zeroTarget = netip.AddrPortFrom(vip, 8080) // a Service whose port is its backends' too
)

const target = 8080

// ranges are whom toFew serves: the client's network, and bob.
func ranges(f family) []netip.Prefix {
	return []netip.Prefix{f.prefix("198.51.100.7/24"), f.prefix("192.0.2.21/32")}
}

func pod(last byte, addr string) bpftest.Pod {
	return bpftest.Pod{MAC: ether.MAC{0x02, 0, 0, 0, 0, last}, Addr: netip.MustParseAddr(addr), Netns: bpftest.NoNetns}
}

// world is a loaded copy of the programs that knows the world above, in one family. It is told of it in IPv4.
type world struct {
	*bpftest.LB
	family
	tcp, udp map[netip.AddrPort]*service
}

// service translates like its world.
type service struct {
	*bpftest.Service
	family
}

func newWorld(t testing.TB, f family, cfg bpftest.Config) *world {
	t.Helper()
	testkit.Require(t, testkit.BPF)
	w := &world{LB: bpftest.Load(t, cfg), family: f}
	w.populate()
	return w
}

func (w *world) populate() {
	w.AddNode(w.addr(node))
	w.AddPod(alice)
	w.AddPod(bob)
	w.AddVIP(w.addr(vip), true)
	w.AddVIP(w.addr(peerVIP), false)
	w.tcp, w.udp = w.addServices(bpftest.ProtoTCP), w.addServices(bpftest.ProtoUDP)
}

func (w *world) addServices(proto uint8) map[netip.AddrPort]*service {
	local := func(p bpftest.Pod) bpftest.Backend { return bpftest.Backend{Pod: p, Port: target, Local: true} }
	remote := bpftest.Backend{Pod: remi, Port: target}
	return map[netip.AddrPort]*service{
		toAlice:    w.AddService(proto, toAlice, local(alice)),
		toBob:      w.AddService(proto, toBob, local(bob)),
		toRemi:     w.AddService(proto, toRemi, remote),
		toNothing:  w.AddService(proto, toNothing),
		peerAlice:  w.AddService(proto, peerAlice, local(alice)),
		peerRemi:   w.AddService(proto, peerRemi, remote),
		zeroTarget: w.AddService(proto, zeroTarget, local(alice)),
	}
}

// AddPod attaches a pod.
func (w *world) AddPod(p bpftest.Pod) { w.LB.AddPod(w.pod(p)) }

// AddService makes a service with its backends.
func (w *world) AddService(proto uint8, at netip.AddrPort, backends ...bpftest.Backend) *service {
	translated := make([]bpftest.Backend, len(backends))
	for i, b := range backends {
		translated[i] = w.backend(b)
	}
	return &service{w.LB.AddService(proto, w.at(at), translated...), w.family}
}

// AddBackend gives the service one more backend.
func (s *service) AddBackend(b bpftest.Backend) int { return s.Service.AddBackend(s.backend(b)) }

// SetBackend replaces a backend.
func (s *service) SetBackend(position int, b bpftest.Backend) {
	s.Service.SetBackend(position, s.backend(b))
}

// bytes builds a packet in the world's family.
func (w *world) bytes(p bpftest.Packet) []byte { return w.packet(p).Bytes() }

// step is one packet and what must come of it.
type step struct {
	name    string
	dir     bpftest.Direction
	in      bpftest.Packet
	arrived bool // see bpftest.Run
	want    *bpftest.Packet
	action  bpftest.Action
	reason  string
}

// becomes says how the frame must look afterwards; without it, it must be unchanged.
func (s step) becomes(p bpftest.Packet) step { s.want = &p; return s }

func (s step) called(name string) step { s.name = name; return s }

func ingress(in bpftest.Packet, action bpftest.Action, reason string) step {
	return step{dir: bpftest.Ingress, in: in, action: action, reason: reason}
}

func egress(in bpftest.Packet, action bpftest.Action, reason string) step {
	return step{dir: bpftest.Egress, in: in, action: action, reason: reason}
}

// mustStep runs a step and compares everything that it left behind.
func (w *world) mustStep(t *testing.T, s step) {
	t.Helper()
	in := w.bytes(s.in)
	want := in
	if s.want != nil {
		want = w.bytes(*s.want)
	}
	got := w.Do(bpftest.Run{Dir: s.dir, Frame: in, Arrived: s.arrived})
	if got.Action != s.action || got.Reason != s.reason {
		t.Errorf("%s: verdict = %s (%s), want %s (%s)", s.name, got.Action, got.Reason, s.action, s.reason)
	}
	mustEqualFrames(t, s.name, want, got.Frame)
}

func mustEqualFrames(t *testing.T, name string, want, got []byte) {
	t.Helper()
	if diff := cmp.Diff(strings.Split(bpftest.Text(want), "\n"), strings.Split(bpftest.Text(got), "\n")); diff != "" {
		t.Fatalf("%s: frame (-want +got):\n%s", name, diff)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s: bytes (-want +got):\n%s", name, diff)
	}
}

// mustEqualText compares a dump of the programs' memory.
func (w *world) mustEqualText(t *testing.T, what, want, got string) {
	t.Helper()
	want = w.text(want)
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// fromClient is a segment as it arrives for the owner of a VIP.
func fromClient(to netip.AddrPort, flags string) bpftest.Packet {
	return bpftest.TCP(client, to, flags).From(router).To(bpftest.Master).Payload("hello")
}

// fromAlice is a segment of her server to the client, as it leaves her.
func fromAlice(flags string) bpftest.Packet {
	return bpftest.TCP(alice.At(target), client, flags).From(alice.MAC).To(router).Payload("world!")
}

// atAlice is what a packet to one of her services becomes.
func atAlice(p bpftest.Packet) bpftest.Packet { return p.To(alice.MAC).Dst(alice.At(target)) }

// handshake opens a connection of the client to one of alice's services and leaves it confirmed.
func handshake(to netip.AddrPort) []step {
	syn := fromClient(to, "S").Payload("").Seq(100)
	synack := fromAlice("S.").Payload("").Seq(500).Ack(101)
	ack := fromClient(to, ".").Payload("").Seq(101).Ack(501)
	return []step{
		ingress(syn, bpftest.OK, "NEW_FLOW").becomes(atAlice(syn)).called("SYN"),
		egress(synack, bpftest.OK, "UNNAT").becomes(synack.Src(to)).called("SYN-ACK"),
		ingress(ack, bpftest.OK, "LOCAL").becomes(atAlice(ack)).called("ACK"),
	}
}

func (w *world) mustSteps(t *testing.T, steps ...step) {
	t.Helper()
	for _, s := range steps {
		w.mustStep(t, s)
	}
}
