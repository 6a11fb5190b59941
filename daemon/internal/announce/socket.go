// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/internal/ether"
)

// socket sends frames on any interface of the network namespace that it was opened in. It is bound to no protocol, so it
// receives nothing, and to no interface, so there is nothing to open and close as masters come and go.
type socket struct{ fd int }

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket (needs CAP_NET_RAW): %w", err)
	}
	return &socket{fd}, nil
}

// send puts a frame on an interface.
func (s *socket) send(ifindex int, frame []byte) error {
	dst, etherType := frame[:len(ether.MAC{})], frame[2*len(ether.MAC{}):]
	to := &unix.SockaddrLinklayer{
		Protocol: binary.NativeEndian.Uint16(etherType), // in network order
		Ifindex:  ifindex,
		Halen:    uint8(len(dst)),
	}
	copy(to.Addr[:], dst)
	if err := unix.Sendto(s.fd, frame, 0, to); err != nil {
		return fmt.Errorf("send on interface %d: %w", ifindex, err)
	}
	return nil
}

func (s *socket) close() error { return unix.Close(s.fd) }
