// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"golang.org/x/sync/errgroup"
)

// serve answers until ctx ends.
func serve(ctx context.Context, port, name string) error {
	tcp, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return fmt.Errorf("listen on TCP port %s: %w", port, err)
	}
	udp, err := listenUDP(port)
	if err != nil {
		return errors.Join(err, tcp.Close())
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client is gone
		}
		_, _ = w.Write(answer(name, r.RemoteAddr, sent)) // as it would be
	})}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Serve(tcp) })
	for _, conn := range udp {
		group.Go(func() error { return echo(conn, name) })
	}
	group.Go(func() error {
		<-ctx.Done()
		errs := []error{server.Close()}
		for _, conn := range udp {
			errs = append(errs, conn.Close())
		}
		return errors.Join(errs...)
	})
	if err := group.Wait(); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// listenUDP opens a socket for each address of the pod. A socket without an address would choose the source of an answer
// after routing, so source routing would not apply to it, and a client behind a router would wait in vain.
func listenUDP(port string) ([]net.PacketConn, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var conns []net.PacketConn
	for _, a := range addrs {
		ip, ok := a.(*net.IPNet)
		if !ok || ip.IP.IsLinkLocalUnicast() {
			continue
		}
		conn, err := net.ListenPacket("udp", net.JoinHostPort(ip.IP.String(), port))
		if err != nil {
			return nil, fmt.Errorf("listen on UDP port %s: %w", port, err)
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

func echo(conn net.PacketConn, name string) error {
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(answer(name, from.String(), buf[:n]), from); err != nil {
			return err
		}
	}
}

// answer tells a client who answered, whom he saw and what he got, "web1 192.168.20.5 HASH", and gives that back in the
// lines that follow.
func answer(name, remote string, sent []byte) []byte {
	addr := remote
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		addr = ap.Addr().Unmap().String()
	}
	return fmt.Appendf(nil, "%s %s %x\n%s", name, addr, sha256.Sum256(sent), sent)
}

// check judges the answer to what was sent, and gives "POD CLIENT" of it.
func check(answer, sent []byte) (string, error) {
	line, back, _ := bytes.Cut(answer, []byte("\n"))
	who, hash, ok := cutLast(string(line), " ")
	switch {
	case !ok:
		return "", fmt.Errorf("answer %q is not POD CLIENT HASH", line)
	case hash != fmt.Sprintf("%x", sha256.Sum256(sent)):
		return "", fmt.Errorf("%s got other octets than were sent: %s", who, hash)
	case !bytes.Equal(back, sent):
		return "", fmt.Errorf("%s gave other octets back than it got", who)
	}
	return who, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
