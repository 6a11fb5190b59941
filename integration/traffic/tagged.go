// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/internal/ether"
)

// tagged sends a datagram count times in a frame of its own making, with VLAN tags in it, as stacks do that the kernel
// knows nothing of. The answers come to ordinary sockets. tags are "TYPE:TCI", in hexadecimal, the outermost first.
func tagged(r *Report, c client, count int, dev, to, tags string) error {
	link, err := net.InterfaceByName(dev)
	if err != nil {
		return fmt.Errorf("find interface %q: %w", dev, err)
	}
	header, err := ethernet(link, to, tags)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open packet socket (needs CAP_NET_RAW): %w", err)
	}
	defer unix.Close(fd)
	for range count {
		r.note(c.askTagged(fd, link.Index, header))
	}
	return nil
}

// ethernet builds the frame's header, up to the EtherType of IPv4.
func ethernet(link *net.Interface, to, tags string) ([]byte, error) {
	mac, err := ether.ParseMAC(to)
	if err != nil {
		return nil, err
	}
	header := append(mac[:], link.HardwareAddr...)
	for tag := range strings.SplitSeq(tags, ",") {
		etherType, tci, _ := strings.Cut(tag, ":")
		for _, word := range []string{etherType, tci} {
			n, err := strconv.ParseUint(word, 16, 16)
			if err != nil {
				return nil, fmt.Errorf("read tag %q: %w", tag, err)
			}
			header = binary.BigEndian.AppendUint16(header, uint16(n))
		}
	}
	return binary.BigEndian.AppendUint16(header, unix.ETH_P_IP), nil
}

func (c client) askTagged(fd, ifindex int, header []byte) (string, error) {
	conn, err := net.DialTimeout("udp4", c.target, c.timeout) // sends nothing
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return "", err
	}
	src, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return "", err
	}
	dst, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return "", err
	}
	sent := c.payload()
	frame := append(append([]byte(nil), header...), datagram(src, dst, sent)...)
	if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: ifindex, Halen: 6}); err != nil {
		return "", fmt.Errorf("send a tagged frame: %w", err)
	}
	buf := make([]byte, 2048)
	n, err := conn.Read(buf)
	if err != nil {
		return "", err
	}
	return check(buf[:n], sent)
}

// datagram builds an IPv4 packet (RFC 791) with a UDP datagram (RFC 768).
func datagram(src, dst netip.AddrPort, payload []byte) []byte {
	const ipLen, udpLen, ttl = 20, 8, 64
	from, to := src.Addr().As4(), dst.Addr().As4()
	udp := binary.BigEndian.AppendUint16(nil, src.Port())
	udp = binary.BigEndian.AppendUint16(udp, dst.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(udpLen+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	pseudo := append(append(from[:], to[:]...), 0, unix.IPPROTO_UDP, udp[4], udp[5])
	sum := checksum(pseudo, udp)
	if sum == 0 {
		sum = 0xffff // 0 would mean that there is none
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
	ip := []byte{4<<4 | ipLen/4, 0}
	ip = binary.BigEndian.AppendUint16(ip, uint16(ipLen+len(udp)))
	ip = append(ip, 0, 0, 0, 0, ttl, unix.IPPROTO_UDP, 0, 0)
	ip = append(append(ip, from[:]...), to[:]...)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return append(ip, udp...)
}

// checksum is the Internet checksum (RFC 1071) of the parts.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, part := range parts {
		for i, octet := range part {
			sum += uint32(octet) << (8 * (1 - i%2))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
