// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// ErrUnreachable means that no agent answers: none listens on the socket, or it went away before it answered. An agent
// that is merely slow is not unreachable; there the caller's context ends the call.
var ErrUnreachable = errors.New("agent not reachable")

// maxErrorBody bounds what is read of an answer that is not 2xx, in octets.
const maxErrorBody = 64 << 10

// Client calls a node's agent. It does not retry and has no deadline of its own: the caller's context is the limit.
// Every method returns an error that wraps ErrUnreachable if there is no agent, and *Error if the agent refuses.
type Client struct {
	http *http.Client
}

// NewClient gives a client of the agent that listens on the socket. It does not connect yet.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	// Calls are rare and the callers short-lived, so a kept connection would only be one more state to be in.
	return &Client{http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Add announces an attachment, and returns when the datapath serves it.
func (c *Client) Add(ctx context.Context, a Attachment) error {
	body, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode attachment %s: %w", a.Key(), err)
	}
	return c.call(ctx, http.MethodPost, "/v1/attachments", body, nil)
}

// Get gives the attachment as the agent holds it. If it holds none, the error is an *Error with CodeUnknownContainer.
func (c *Client) Get(ctx context.Context, k Key) (Attachment, error) {
	var a Attachment
	err := c.call(ctx, http.MethodGet, attachmentPath(k), nil, &a)
	return a, err
}

// Remove makes the agent forget an attachment. Removing what is unknown succeeds.
func (c *Client) Remove(ctx context.Context, k Key) error {
	return c.call(ctx, http.MethodDelete, attachmentPath(k), nil, nil)
}

// Services gives the balancing as this node does it.
func (c *Client) Services(ctx context.Context) ([]Service, error) {
	var services []Service
	err := c.call(ctx, http.MethodGet, "/v1/services", nil, &services)
	return services, err
}

// Issues gives what this node's agent finds wrong now.
func (c *Client) Issues(ctx context.Context) ([]Issue, error) {
	var issues []Issue
	err := c.call(ctx, http.MethodGet, "/v1/issues", nil, &issues)
	return issues, err
}

// State gives the compiled State as the agent prints it. Its form is for people and tests, and may change.
func (c *Client) State(ctx context.Context) (json.RawMessage, error) {
	var state json.RawMessage
	err := c.call(ctx, http.MethodGet, "/debug/state", nil, &state)
	return state, err
}

// Ready tells whether the agent serves. If not, the *Error has CodeTryAgain and the agent's reason.
func (c *Client) Ready(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/readyz", nil, nil)
}

func attachmentPath(k Key) string {
	return "/v1/attachments/" + url.PathEscape(k.ContainerID) + "/" + url.PathEscape(k.IfName)
}

// call sends a request and decodes the answer into a value, if one is given.
func (c *Client) call(ctx context.Context, method, path string, body []byte, into any) error {
	// The host is a name for the Host header only; the transport always dials the socket.
	req, err := http.NewRequestWithContext(ctx, method, "http://sluice"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("call the agent: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return transportError(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return answerError(resp)
	}
	if into == nil {
		return nil
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return transportError(ctx, err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("decode the agent's answer to %s %s: %w", method, path, err)
	}
	return nil
}

// transportError tells a missing agent from a caller that gave up. Whatever breaks a connection on one machine is the
// other end's death.
func transportError(ctx context.Context, err error) error {
	// url.Error repeats method and made-up host; what is inside says which socket.
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("wait for the agent's answer: %w", ctx.Err())
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

func answerError(resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return fmt.Errorf("read the agent's answer %q: %w", resp.Status, err)
	}
	var e Error
	if json.Unmarshal(data, &e) == nil && e.Msg != "" {
		return &e
	}
	// The health paths answer in plain text.
	code := CodeInternal
	if resp.StatusCode == http.StatusServiceUnavailable {
		code = CodeTryAgain
	}
	return &Error{Code: code, Msg: "agent answered " + resp.Status, Details: strings.TrimSpace(string(data))}
}
