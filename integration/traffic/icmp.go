// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

// Types of ICMP messages (RFC 792, RFC 4443 section 4).
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// echoHeader is the length of the header of echo messages: type, code, checksum, identifier, sequence number.
const echoHeader = 8

// pinger is a raw socket that hears only what its target sends.
type pinger struct {
	client

	conn           *net.IPConn
	request, reply byte
	id             uint16
}

func (c client) pinger(ctx context.Context) (*pinger, error) {
	addr, err := net.ResolveIPAddr("ip", c.target)
	if err != nil {
		return nil, err
	}
	p := &pinger{client: c, request: echoRequest4, reply: echoReply4, id: uint16(rand.Uint32())}
	network := "ip4:icmp"
	if addr.IP.To4() == nil {
		network, p.request, p.reply = "ip6:ipv6-icmp", echoRequest6, echoReply6
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, c.target)
	if err != nil {
		return nil, fmt.Errorf("open raw socket (needs CAP_NET_RAW): %w", err)
	}
	p.conn = conn.(*net.IPConn)
	return p, nil
}

// send sends a request. For IPv6 the kernel writes the checksum.
func (p *pinger) send(seq uint16, payload []byte) error {
	m := []byte{p.request, 0, 0, 0}
	m = binary.BigEndian.AppendUint16(m, p.id)
	m = binary.BigEndian.AppendUint16(m, seq)
	m = append(m, payload...)
	if p.request == echoRequest4 {
		binary.BigEndian.PutUint16(m[2:], checksum(m))
	}
	_, err := p.conn.Write(m)
	return err
}

// receive waits for the next reply to one of our requests.
func (p *pinger) receive(limit time.Duration) (seq uint16, payload []byte, err error) {
	if err := p.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return 0, nil, err
	}
	buf := make([]byte, 2048)
	for {
		n, _, err := p.conn.ReadFrom(buf) // which takes the IPv4 header off
		if err != nil {
			return 0, nil, err
		}
		m := buf[:n]
		if n >= echoHeader && m[0] == p.reply && m[1] == 0 && binary.BigEndian.Uint16(m[4:]) == p.id {
			return binary.BigEndian.Uint16(m[6:]), m[echoHeader:], nil
		}
	}
}

// echoes sends count echo requests, one after the other. Each must be answered by the target itself, once.
func echoes(ctx context.Context, r *Report, c client, count int) error {
	p, err := c.pinger(ctx)
	if err != nil {
		return err
	}
	defer p.conn.Close()
	for seq := range uint16(count) {
		sent := p.payload()
		if err := p.send(seq, sent); err != nil {
			return err
		}
		got, payload, err := p.receive(c.timeout)
		switch {
		case err != nil:
		case got != seq:
			err = fmt.Errorf("echo request %d was answered twice", got)
		case !bytes.Equal(payload, sent):
			err = errors.New("an echo reply has other octets than its request")
		}
		r.note(c.target+" echo", err)
	}
	if seq, _, err := p.receive(duplicateWindow); err == nil {
		r.note("", fmt.Errorf("echo request %d was answered twice", seq))
	}
	return nil
}

// flood sends count packets and waits for no answer: datagrams, or echo requests if the target has no port.
func flood(ctx context.Context, c client, count int) error {
	if _, _, err := net.SplitHostPort(c.target); err != nil {
		p, err := c.pinger(ctx)
		if err != nil {
			return err
		}
		defer p.conn.Close()
		for i := range count {
			if err := p.send(uint16(i), p.payload()); err != nil {
				return err
			}
		}
		return nil
	}
	addr, err := net.ResolveUDPAddr("udp", c.target)
	if err != nil {
		return err
	}
	conn, err := net.ListenUDP("udp", nil) // not connected, so that errors from afar do not end it
	if err != nil {
		return err
	}
	defer conn.Close()
	for range count {
		if _, err := conn.WriteTo(c.payload(), addr); err != nil {
			return err
		}
	}
	return nil
}
