// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

var (
	allNodes = netip.MustParseAddr("ff02::1")
	// mapped is the VIP as the maps hold it. On a wire it stands for nobody (RFC 6890).
	mapped = netip.AddrFrom16(vip.As16())
)

// spoilt is the packet with one bit of an octet of its frame turned round.
func spoilt(p bpftest.Packet, offset int) bpftest.Packet {
	b := p.Bytes()
	b[offset] ^= 1
	return bpftest.Frame(bpftest.EtherIPv6, b[14:]).From(neighbour.MAC).To([6]byte(b[:6]))
}

// padded is the packet with octets behind what its header tells of.
func padded(p bpftest.Packet, padding ...byte) bpftest.Packet {
	b := append(p.Bytes(), padding...)
	return bpftest.Frame(bpftest.EtherIPv6, b[14:]).From(neighbour.MAC).To([6]byte(b[:6]))
}

// ndPaths are solicitations as only Neighbor Discovery can make them, and its other messages.
func ndPaths() map[string]path {
	const f = ipv6
	owned, answer := f.ask(neighbour, vip), f.tell(neighbour, vip, bpftest.Master)
	probed := f.ask(probe, vip)
	from, about := f.addr(neighbour.Addr), f.addr(vip)
	nonce := []byte{1, 2, 3, 4, 5, 6}
	answered := func(in bpftest.Packet) path {
		return one(ingress(in, bpftest.ToWire, "ND_REPLY").becomes(answer))
	}
	both := func(in bpftest.Packet, reason string) path { return path{steps: bothWays(in, bpftest.PassOn, reason)} }
	passed := func(in bpftest.Packet) path { return both(in, "MISS") }
	malformed := func(in bpftest.Packet) path { return both(in, "MALFORMED") }
	const echoReply = bpftest.ICMPv6Echo + 1
	toVIP := func(kind uint8) bpftest.Packet {
		return bpftest.ICMPv6(from, about, kind, 0).TTL(255).From(other).To(bpftest.Master).Payload("0123456789abcdef")
	}
	// The longest chain of options that the programs read: up to 511 octets of frame.
	long := func(units int) bpftest.Packet { return owned.NoNDOptions().NDOption(200, make([]byte, units*8-2)...) }
	return map[string]path{
		"without options": answered(owned.NoNDOptions()),
		"with a nonce":    answered(owned.NDOption(bpftest.NDNonce, nonce...)),
		"with unknown options": answered(
			owned.NoNDOptions().NDOption(200, make([]byte, 22)...).NDOption(201, make([]byte, 6)...)),
		"options as long as we read":  answered(long(54)),
		"options longer than we read": passed(long(55)),
		"traffic class and label stay": one(
			ingress(owned.TrafficClass(0xe0).FlowLabel(0x12345), bpftest.ToWire, "ND_REPLY").
				becomes(answer.TrafficClass(0xe0).FlowLabel(0x12345))),
		"unicast to the address as well":       answered(owned.Dst(f.at(addrPort(vip, 0))).To(bpftest.Master)),
		"padding behind the message":           answered(padded(owned, 0xee)),
		"padding behind one that is too short": answered(padded(owned.NoNDOptions(), 1, 2, 3)),
		"probe with a nonce (RFC 7527)": one(
			ingress(probed.NDOption(bpftest.NDNonce, nonce...), bpftest.ToWire, "ND_REPLY").
				becomes(f.tell(probe, vip, bpftest.Master))),
		"unicast for a VIP that is not ours, to it": one(ingress(
			bpftest.NeighborSolicitation(other, from, f.addr(peerVIP)).Dst(f.at(addrPort(peerVIP, 0))).To(bpftest.Master),
			bpftest.PassOn, "MISS")),

		"through a router":              passed(owned.TTL(254)),
		"with a code":                   passed(owned.ICMPCode(1)),
		"for a group":                   passed(bpftest.NeighborSolicitation(other, from, bpftest.SolicitedNode(about))),
		"for an IPv4-mapped address":    passed(bpftest.NeighborSolicitation(other, from, mapped)),
		"from an IPv4-mapped address":   passed(bpftest.NeighborSolicitation(other, mapped, about)),
		"from a group":                  passed(bpftest.NeighborSolicitation(other, allNodes, about)),
		"behind an extension header":    passed(owned.Options(bpftest.ExtHopByHop, 8)),
		"behind an atomic fragment":     passed(owned.FragmentHeader(0, false)),
		"a fragment":                    passed(owned.Fragment(0, true)),
		"wrong checksum":                malformed(spoilt(owned, 14+40+2)),
		"wrong checksum, flag":          malformed(spoilt(owned, 14+40+4)),
		"wrong checksum, in the option": malformed(spoilt(owned, 14+40+31)),
		"option of no length":           malformed(owned.RawNDOptions(bpftest.NDNonce, 0, 0, 0, 0, 0, 0, 0)),
		"option longer than the rest":   malformed(owned.RawNDOptions(bpftest.NDNonce, 2, 0, 0, 0, 0, 0, 0)),
		"half an option":                malformed(owned.RawNDOptions(bpftest.NDNonce, 1, 0, 0)),
		"claims to be longer":           malformed(owned.PayloadLength(40)),
		"claims to be shorter":          malformed(owned.PayloadLength(24)),
		"claims to have no target":      malformed(owned.PayloadLength(16)),
		"claims to have no length":      malformed(owned.PayloadLength(0)),
		"probe with a MAC":              malformed(probed.NDOption(bpftest.NDSourceMAC, other[:]...)),
		"probe to the address itself":   malformed(probed.Dst(f.at(addrPort(vip, 0)))),
		"probe to all nodes":            malformed(probed.Dst(netip.AddrPortFrom(allNodes, 0))),

		"Router Solicitation to a VIP":    one(ingress(toVIP(bpftest.ICMPv6RouterSolicit), bpftest.PassOn, "MISS")),
		"Router Advertisement to a VIP":   one(ingress(toVIP(bpftest.ICMPv6RouterAdvertise), bpftest.PassOn, "MISS")),
		"Neighbor Advertisement to a VIP": one(ingress(toVIP(bpftest.ICMPv6NeighborAdvertise), bpftest.PassOn, "MISS")),
		"Redirect to a VIP":               one(ingress(toVIP(bpftest.ICMPv6Redirect), bpftest.PassOn, "MISS")),
		"echo reply to a VIP":             {steps: bothWays(toVIP(echoReply), bpftest.Drop, "UNSUPPORTED_PROTOCOL")},
	}
}

// An answer is written over the question, and skb->csum must stay right. (Where the length changes, the kernel forgets
// it; the sums are alike all the same.)
func TestFullChecksumSurvivesNeighborAdvertisements(t *testing.T) {
	w := newWorld(t, ipv6, bpftest.Config{})
	owned := ipv6.ask(neighbour, vip)
	for name, in := range map[string]bpftest.Packet{
		"as long as the answer": owned,
		"longer":                owned.NDOption(bpftest.NDNonce, 1, 2, 3, 4, 5, 6),
		"probe":                 ipv6.ask(probe, vip).NDOption(bpftest.NDNonce, 1, 2, 3, 4, 5, 6),
	} {
		got, err := w.Try(bpftest.Run{Dir: bpftest.Ingress, Frame: in.Bytes(), Flags: bpftest.ChecksumComplete})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := bpftest.VerifyChecksums(got.Frame); err != nil || got.Reason != "ND_REPLY" {
			t.Errorf("%s: reason = %s, %v, want ND_REPLY\n%s", name, got.Reason, err, bpftest.Text(got.Frame))
		}
	}
}
