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
func serve(ctx context.Context, listen, name string) error {
	tcp, err := net.Listen("tcp4", listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", listen, err)
	}
	udp, err := net.ListenPacket("udp4", listen)
	if err != nil {
		return errors.Join(fmt.Errorf("listen on %s: %w", listen, err), tcp.Close())
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, answer(name, r.RemoteAddr))
	})}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Serve(tcp) })
	group.Go(func() error { return echo(udp, name) })
	group.Go(func() error {
		<-ctx.Done()
		return errors.Join(server.Close(), udp.Close())
	})
	if err := group.Wait(); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
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
