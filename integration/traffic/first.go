// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"time"
)

// first sends a datagram every millisecond until one is answered. It says "trying" when it begins and then the time of the
// answer.
func first(ctx context.Context, target string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", target)
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Println("trying")
	answered := make(chan time.Time, 1)
	go func() {
		buf := make([]byte, 2048)
		for {
			if _, err := conn.Read(buf); err == nil {
				answered <- time.Now()
				return
			}
			if ctx.Err() != nil {
				return
			}
		}
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case at := <-answered:
			fmt.Println(at.UnixNano())
			return nil
		case <-ctx.Done():
			return fmt.Errorf("ask %s: %w", target, context.Cause(ctx))
		case <-tick.C:
			_, _ = conn.Write([]byte("who?")) // an ICMP error of an earlier datagram is no news
		}
	}
}
