// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// turns tell how connections to the Service that is asked fare, whenever that changes.
type turns struct {
	lines chan string
	stop  func()
}

// watchTurns has a client connect until stop.
func (b *bench) watchTurns(ctx context.Context) (*turns, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := b.Client.Command(ctx, "traffic", "turns", askedTarget)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("start traffic: %w", err)
	}
	t := &turns{lines: make(chan string, 16)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(t.lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			select {
			case t.lines <- scanner.Text():
			case <-ctx.Done():
			}
		}
	}()
	t.stop = func() {
		cancel()
		<-ended
		_ = cmd.Wait() // we have killed it
	}
	return t, nil
}

// wait waits for an outcome, and gives when it was seen first.
func (t *turns) wait(ctx context.Context, want string, at *time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		select {
		case line, ok := <-t.lines:
			if !ok {
				return fmt.Errorf("wait for connections to be %s: traffic has ended", want)
			}
			outcome, text, _ := strings.Cut(line, " ")
			if outcome != want {
				continue
			}
			ns, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return fmt.Errorf("read what traffic prints: %w", err)
			}
			if at != nil {
				*at = time.Unix(0, ns)
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("wait for connections to be %s: %w", want, context.Cause(ctx))
		}
	}
}
