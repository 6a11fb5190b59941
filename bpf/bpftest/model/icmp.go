// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"encoding/binary"
)

// Types of ICMP (RFC 792) and ICMPv6 (RFC 4443) messages.
const (
	echoReply4, echoRequest4 = 0, 8
	echoRequest6, echoReply6 = 128, 129
)

// isICMP tells whether the packet is a message of its family's ICMP, and all of it.
func (p *packet) isICMP() bool {
	own := map[uint8]uint8{4: protoICMP, 6: protoICMPv6}[p.version]
	return p.proto == own && !p.fragment
}

// isError tells whether the message says what became of a packet that it quotes. Source quench is obsolete (RFC 6633),
// and redirects concern the next hop alone. Of ICMPv6 only those errors that are defined.
func (p *packet) isError() bool {
	kind := p.Bytes[p.l4]
	if p.version == 6 {
		return kind >= 1 && kind <= 4 // unreachable, too big, time exceeded, parameter problem
	}
	return kind == 3 || kind == 11 || kind == 12 // unreachable, time exceeded, parameter problem
}

// icmpToVIP is for messages to a VIP.
func (n *Node) icmpToVIP(p *packet) (Action, string) {
	if len(p.Bytes) < p.l4+icmpLen {
		return PassOn, "MALFORMED"
	}
	request, code := byte(echoRequest4), p.Bytes[p.l4+1]
	if p.version == 6 {
		request = echoRequest6
	}
	switch kind := p.Bytes[p.l4]; {
	case p.isError():
		return n.errorToVIP(p)
	case kind == request && code == 0 && !n.chosen(p): // owners answer, and do not send on
		return n.echo(p)
	}
	return Drop, "UNSUPPORTED_PROTOCOL"
}

// echo answers for a VIP: to the wire the owner does, to its own pods and to itself every node.
func (n *Node) echo(p *packet) (Action, string) {
	switch {
	case !n.fromHere(p) && !n.Owned[p.to]:
		return Drop, "NOT_OWNER"
	case !p.answerable():
		return Drop, "UNSUPPORTED_PROTOCOL"
	case n.Exhausted[Echo]:
		return Drop, "ANSWER_LIMIT"
	}
	p.readdress(p.to, p.from)
	reply, hops := byte(echoReply4), ethernetLen+8
	if p.version == 6 {
		reply, hops = echoReply6, ethernetLen+7
	}
	message := p.out[p.l4:]
	before := bytes.Clone(message[:2])
	message[0] = reply
	update(message[2:], sumChange(before, message[:2])) // the pseudo header's sum stays
	ip := p.out[ethernetLen : ethernetLen+ipv4Len]
	before = bytes.Clone(ip)
	p.out[hops] = hopLimit
	if p.version == 4 {
		update(ip[10:], sumChange(before, ip))
	}
	p.setMACs(p.src, n.Master)
	return n.back(p), "ECHO_REPLY"
}

// quoted reads the packet that the error quotes, as a frame of its own; nil if there is nothing of use in it: its
// header must be there, and the ports behind it.
func (p *packet) quoted() *packet {
	at := p.l4 + icmpLen
	frame := append(make([]byte, ethernetLen), p.Bytes[at:]...)
	q := &packet{Frame: Frame{Bytes: frame}, out: bytes.Clone(frame), before: at - ethernetLen}
	ok := p.version == 4 && q.parseIPv4() || p.version == 6 && q.parseIPv6() && !q.onNoWire() && q.walk()
	if !ok || q.proto != protoTCP && q.proto != protoUDP || q.later || len(frame) < q.l4+4 {
		return nil
	}
	q.sport, q.dport = binary.BigEndian.Uint16(frame[q.l4:]), binary.BigEndian.Uint16(frame[q.l4+2:])
	return q
}

// concerns gives what the error quotes and the tuple of the packets that the one quoted answers; false if the error is
// about no connection, or goes to another than the one who sent what it quotes.
func (p *packet) concerns() (*packet, Tuple, bool) {
	q := p.quoted()
	if q == nil || q.from != p.to {
		return nil, Tuple{}, false
	}
	t := q.tuple()
	return q, Tuple{t.Proto, t.Dst, t.Src}, true
}

// errorToVIP brings an error to the pod that its flow leads to: here or, by way of its node, elsewhere.
func (n *Node) errorToVIP(p *packet) (Action, string) {
	q, t, ok := p.concerns()
	if !ok {
		return Drop, "ICMP_UNRELATED"
	}
	if f, _ := n.find(t); f != nil {
		if f.Reply && p.from != q.to { // about what a pod was sent, only that pod speaks
			return Drop, "ICMP_UNRELATED"
		}
		return n.deliverError(p, q, f)
	}
	if n.chosen(p) { // the owner has looked already
		return Drop, "ICMP_UNRELATED"
	}
	id := n.Choices[t].Backend
	if s := n.Services[Frontend{t.Proto, t.Dst}]; id == 0 && s != nil {
		id = n.fromTable(t, s)
	}
	if b, ok := n.Backends[id]; ok && !b.Local {
		return n.sendOn(p, b)
	}
	return Drop, "ICMP_UNRELATED"
}

// icmpFromPod gives an error of a pod about a client's packet the VIP. All else that a pod says is its own affair.
func (n *Node) icmpFromPod(p *packet) (Action, string) {
	if len(p.Bytes) < p.l4+icmpLen {
		return PassOn, "MALFORMED"
	}
	if !p.isError() || p.Dir == Ingress && !n.Pods[p.dst] { // not to a sibling: a switch sent it back
		return PassOn, "MISS"
	}
	q, t, ok := p.concerns()
	if !ok {
		return PassOn, "MISS"
	}
	f, _ := n.find(t)
	if f == nil || !f.Reply || p.from != q.to {
		return PassOn, "MISS"
	}
	return n.deliverError(p, q, f)
}

// deliverError translates an error about a packet that a flow's packets answer: outside as that flow, inside the other
// way round, for its receiver knows what he sent. A router keeps its own address.
func (n *Node) deliverError(p, q *packet, f *Flow) (Action, string) {
	q.rewrite(f.Dst, f.Src)
	message := p.out[p.l4:]
	before := bytes.Clone(message[icmpLen:])
	copy(message[icmpLen:], q.out[ethernetLen:])
	change := sumChange(before, message[icmpLen:])
	from := p.from
	if from == q.to {
		from = f.Src.Addr()
	}
	addresses := p.readdress(from, f.Dst.Addr())
	if p.version == 6 { // RFC 792 knows no pseudo header
		change += addresses
	}
	update(message[2:], change)
	return n.steer(p, f), "ICMP_ERROR"
}
