// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"time"
)

const (
	// attemptPeriod is how often connect opens a connection.
	attemptPeriod = 2 * time.Millisecond
	// silence is after how long without an answer there is none any more, and how long an attempt may take.
	silence = time.Second
)

// connect opens a connection every other millisecond, until ctx ends or one was answered and none is any more. It says "trying"
// when it begins, then the time when the first SYN was answered, and at the end that of the last. A reset is no answer.
func connect(ctx context.Context, target string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the attempts under way
	fmt.Println("trying")
	answers := make(chan time.Time)
	tick := time.NewTicker(attemptPeriod)
	defer tick.Stop()
	silent := time.NewTimer(silence)
	silent.Stop() // until the first answer
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			if last.IsZero() {
				return fmt.Errorf("connect to %s: no answer: %w", target, context.Cause(ctx))
			}
			return nil
		case <-tick.C:
			go attempt(ctx, target, answers)
		case at := <-answers:
			if last.IsZero() {
				fmt.Println(at.UnixNano())
			}
			last = at
			silent.Reset(silence)
		case <-silent.C:
			fmt.Println(last.UnixNano())
			return nil
		}
	}
}

// attempt opens one connection, and tells when it was answered.
func attempt(ctx context.Context, target string, answers chan<- time.Time) {
	conn, err := (&net.Dialer{Timeout: silence}).DialContext(ctx, "tcp", target)
	if err != nil {
		return
	}
	at := time.Now()
	conn.Close()
	select {
	case answers <- at:
	case <-ctx.Done():
	}
}
