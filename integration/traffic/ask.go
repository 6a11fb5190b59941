// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// duplicateWindow is how long a second answer to one datagram may take to be noticed.
const duplicateWindow = 20 * time.Millisecond

// client is whom to ask, and how.
type client struct {
	target  string
	size    int // octets that each question carries, at random
	timeout time.Duration
	port    int // that datagrams are sent from; 0 is any
}

// payload makes the octets of one question.
func (c client) payload() []byte {
	b := make([]byte, c.size)
	_, _ = rand.Read(b) // crypto/rand never returns an error
	return b
}

// load asks count times, each time on a new connection, parallel at a time.
func load(r *Report, c client, count, parallel int) {
	each(count, parallel, func() {
		conn, err := c.dial()
		if err != nil {
			r.note("", err)
			return
		}
		defer conn.Close()
		r.note(conn.ask())
	})
}

// hold asks on each of its connections, one question after the other, until ctx ends. A connection that breaks is an error,
// and so is one that is answered by two pods. It says "held" on standard error when each has been answered, or has failed.
func hold(ctx context.Context, r *Report, c client, connections int) {
	var begun sync.WaitGroup
	begun.Add(connections)
	go func() {
		begun.Wait()
		fmt.Fprintln(os.Stderr, "held")
	}()
	each(connections, connections, func() {
		begin := sync.OnceFunc(begun.Done)
		defer begin()
		conn, err := c.dial()
		if err != nil {
			r.note("", err)
			return
		}
		defer conn.Close()
		first := ""
		for ctx.Err() == nil && err == nil {
			var body string
			start := time.Now()
			body, err = conn.ask()
			pod, _, _ := strings.Cut(body, " ")
			if first == "" {
				first = pod
			}
			if err == nil && pod != first {
				err = fmt.Errorf("a connection to %s moved to %s", first, pod)
			} else if err != nil {
				err = fmt.Errorf("connection to %s: %w", first, err)
			}
			r.gap(time.Since(start))
			r.note(body, err)
			begin()
		}
	})
}

// datagrams asks count times, each time from a new port unless the client has one.
func datagrams(ctx context.Context, r *Report, c client, count, parallel int) {
	each(count, parallel, func() { r.note(c.askUDP(ctx)) })
}

func each(count, parallel int, fn func()) {
	var group errgroup.Group
	group.SetLimit(parallel)
	for range count {
		group.Go(func() error {
			fn()
			return nil
		})
	}
	_ = group.Wait() // the functions report by themselves
}

// connection is an HTTP connection that is opened once. net/http's client would open another one behind our back.
type connection struct {
	net.Conn
	client

	answers *bufio.Reader
}

// watchful lets a connection that waits for an answer ask whether the other end still knows of it, for as long as the kernel
// lets one ask in vain.
var watchful = net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: 2 * time.Second, Count: 127}

func (c client) dial() (*connection, error) {
	conn, err := (&net.Dialer{Timeout: c.timeout, KeepAliveConfig: watchful}).Dial("tcp", c.target)
	if err != nil {
		return nil, err
	}
	return &connection{Conn: conn, client: c, answers: bufio.NewReader(conn)}, nil
}

// ask sends a request and gives what the answer says, "POD CLIENT".
func (c *connection) ask() (string, error) {
	if err := c.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return "", err
	}
	sent := c.payload()
	// No address: one with a zone is none of a URL's.
	request, err := http.NewRequest(http.MethodPost, "http://pod/", bytes.NewReader(sent))
	if err != nil {
		return "", err
	}
	if err := request.Write(c); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(c.answers, request)
	if err != nil {
		return "", fmt.Errorf("%s waits for %s: %w", c.LocalAddr(), c.RemoteAddr(), err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	return check(body, sent)
}

func (c client) askUDP(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	conn, err := (&net.Dialer{LocalAddr: &net.UDPAddr{Port: c.port}}).DialContext(ctx, "udp", c.target)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", err
		}
	}
	sent := c.payload()
	if _, err := conn.Write(sent); err != nil {
		return "", err
	}
	buf := make([]byte, 2048)
	n, err := conn.Read(buf)
	if err != nil {
		return "", err
	}
	// A datagram that was balanced twice is answered twice, at about the same time.
	if err := conn.SetReadDeadline(time.Now().Add(duplicateWindow)); err != nil {
		return "", err
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		return "", errors.New("one datagram, two answers")
	}
	return check(buf[:n], sent)
}

// note counts an answer, "POD CLIENT", or an error.
func (r *Report) note(body string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pod, client, ok := strings.Cut(strings.TrimSpace(body), " ")
	switch {
	case err == nil && ok:
		r.Pods[pod]++
		r.Clients[client]++
	case len(r.Errors) == maxErrors:
	case err != nil:
		r.Errors = append(r.Errors, err.Error())
	default:
		r.Errors = append(r.Errors, fmt.Sprintf("answer %q is not POD CLIENT", body))
	}
}

func (r *Report) gap(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.LongestGap = max(r.LongestGap, d)
}
