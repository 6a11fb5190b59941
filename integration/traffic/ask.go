// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// duplicateWindow is how long a second answer to one datagram may take to be noticed.
const duplicateWindow = 20 * time.Millisecond

// load asks count times, each time on a new connection, parallel at a time.
func load(ctx context.Context, r *Report, target string, count, parallel int, timeout time.Duration) {
	each(count, parallel, func() {
		client, closeIdle := r.client(timeout)
		defer closeIdle()
		r.note(ask(ctx, client, target))
	})
}

// hold asks on each of its connections, one question after the other, until ctx ends. A connection that breaks is an error,
// and so is one that is answered by two pods.
func hold(ctx context.Context, r *Report, target string, connections int, timeout time.Duration) {
	each(connections, connections, func() {
		client, closeIdle := r.client(timeout)
		defer closeIdle()
		first := ""
		for ctx.Err() == nil {
			start := time.Now()
			// The last question is let finish: it must not look like a broken connection.
			body, err := ask(context.WithoutCancel(ctx), client, target)
			pod, _, _ := strings.Cut(body, " ")
			if first == "" {
				first = pod
			}
			if err == nil && pod != first {
				err = fmt.Errorf("a connection to %s moved to %s", first, pod)
			}
			r.gap(time.Since(start))
			r.note(body, err)
			if err != nil {
				return
			}
		}
	})
}

// datagrams asks count times, each time from a new port.
func datagrams(ctx context.Context, r *Report, target string, count, parallel int, timeout time.Duration) {
	each(count, parallel, func() { r.note(askUDP(ctx, target, timeout)) })
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

// client has one connection at most and counts how often it is opened.
func (r *Report) client(timeout time.Duration) (*http.Client, func()) {
	dialer := net.Dialer{Timeout: timeout}
	dials := 0
	transport := &http.Transport{MaxConnsPerHost: 1}
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		r.mu.Lock()
		r.Dials++
		r.mu.Unlock()
		if dials++; dials > 1 {
			return nil, errors.New("the connection broke")
		}
		return dialer.DialContext(ctx, network, addr)
	}
	return &http.Client{Transport: transport, Timeout: timeout}, transport.CloseIdleConnections
}

func ask(ctx context.Context, client *http.Client, target string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+target+"/", nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func askUDP(ctx context.Context, target string, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp4", target)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", err
		}
	}
	if _, err := conn.Write([]byte("who?")); err != nil {
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
	return string(buf[:n]), nil
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
