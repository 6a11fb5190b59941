// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

const (
	turnsPeriod = 2 * time.Millisecond
	// turnsLimit bounds one attempt: the kernel repeats a SYN that got lost only after a second.
	turnsLimit = 100 * time.Millisecond
)

// turns connects again and again until ctx ends. It prints the first outcome, and each that differs from the one before, with
// the time in ns since 1970. An attempt without any answer is no outcome.
func turns(ctx context.Context, target string) {
	last := ""
	dialer := net.Dialer{Timeout: turnsLimit}
	tick := time.NewTicker(turnsPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := ""
		conn, err := dialer.DialContext(ctx, "tcp", target)
		at := time.Now()
		switch {
		case err == nil:
			now = "open"
			_ = conn.(*net.TCPConn).SetLinger(0) // a reset: nobody remembers the connection
			_ = conn.Close()
		case errors.Is(err, syscall.ECONNREFUSED):
			now = "refused"
		}
		if now != "" && now != last {
			fmt.Println(now, at.UnixNano())
			last = now
		}
	}
}
