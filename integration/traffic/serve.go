// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"golang.org/x/sync/errgroup"
)

// serve answers until ctx ends.
func serve(ctx context.Context, port, name string) error {
	tcp, err := net.Listen("tcp4", ":"+port)
	if err != nil {
		return fmt.Errorf("listen on TCP port %s: %w", port, err)
	}
	udp, err := listenUDP(port)
	if err != nil {
		return errors.Join(err, tcp.Close())
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, answer(name, r.RemoteAddr))
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
		if !ok || ip.IP.To4() == nil {
			continue
		}
		conn, err := net.ListenPacket("udp4", net.JoinHostPort(ip.IP.String(), port))
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
		_, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo([]byte(answer(name, from.String())), from); err != nil {
			return err
		}
	}
}

// answer is the line that tells a client who answered and whom he saw: "web1 192.168.20.5".
func answer(name, remote string) string {
	addr := remote
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		addr = ap.Addr().Unmap().String()
	}
	return name + " " + addr
}
