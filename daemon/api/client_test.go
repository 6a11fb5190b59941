// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// serve answers on a new socket, and gives a client of it.
func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: handler}}
	server.Start()
	t.Cleanup(server.Close)
	return NewClient(socket)
}

func TestClientSpeaksTheContract(t *testing.T) {
	key := Key{ContainerID: "c0ffee", IfName: "a%b?"} // legal as an interface name, and awkward in a path
	call := map[string]func(*Client) error{
		"Add":      func(c *Client) error { return c.Add(t.Context(), exampleAttachment()) },
		"Get":      func(c *Client) error { _, err := c.Get(t.Context(), key); return err },
		"Remove":   func(c *Client) error { return c.Remove(t.Context(), key) },
		"Services": func(c *Client) error { _, err := c.Services(t.Context()); return err },
		"Issues":   func(c *Client) error { _, err := c.Issues(t.Context()); return err },
		"State":    func(c *Client) error { _, err := c.State(t.Context()); return err },
		"Ready":    func(c *Client) error { return c.Ready(t.Context()) },
	}
	want := map[string]string{
		"Add":      "POST /v1/attachments",
		"Get":      "GET /v1/attachments/c0ffee/a%25b%3F",
		"Remove":   "DELETE /v1/attachments/c0ffee/a%25b%3F",
		"Services": "GET /v1/services",
		"Issues":   "GET /v1/issues",
		"State":    "GET /debug/state",
		"Ready":    "GET /readyz",
	}
	for name, do := range call {
		t.Run(name, func(t *testing.T) {
			var got, body string
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				data, _ := io.ReadAll(r.Body)
				got, body = r.Method+" "+r.URL.EscapedPath(), string(data)
				fmt.Fprint(w, "null")
			})
			if err := do(c); err != nil {
				t.Fatal(err)
			}
			if got != want[name] {
				t.Errorf("request = %q, want %q", got, want[name])
			}
			if name != "Add" {
				return
			}
			var sent Attachment
			if err := json.Unmarshal([]byte(body), &sent); err != nil {
				t.Fatal(err)
			}
			equal := cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})
			if diff := cmp.Diff(exampleAttachment(), sent, equal); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
		})
	}
}

func TestClientPassesOnTheAgentsError(t *testing.T) {
	tests := map[string]struct {
		status int
		body   string
		want   Error
	}{
		"as JSON": {
			503,
			`{"code": 11, "msg": "not ready", "details": "why"}`,
			Error{Code: 11, Msg: "not ready", Details: "why"},
		},
		"as text": {
			503,
			"no BPF\n",
			Error{Code: CodeTryAgain, Msg: "agent answered 503 Service Unavailable", Details: "no BPF"},
		},
		"other server": {
			500,
			"<html>",
			Error{Code: CodeInternal, Msg: "agent answered 500 Internal Server Error", Details: "<html>"},
		},
		"empty": {404, "", Error{Code: CodeInternal, Msg: "agent answered 404 Not Found"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				fmt.Fprint(w, tc.body)
			})
			var got *Error
			if err := c.Ready(t.Context()); !errors.As(err, &got) {
				t.Fatalf("error = %v, want an *Error", err)
			}
			if diff := cmp.Diff(tc.want, *got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestClientTellsAMissingAgent(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
	dying := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			conn.Close()
		}
	})
	tests := map[string]*Client{
		"no directory":                  NewClient(filepath.Join(dir, "absent", "agent.sock")),
		"no socket":                     NewClient(filepath.Join(dir, "agent.sock")),
		"nobody listens":                NewClient(stale),
		"agent dies before it answers":  dying,
		"agent dies within the answer ": cutting(t),
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := c.Services(t.Context()); !errors.Is(err, ErrUnreachable) {
				t.Errorf("error = %v, want ErrUnreachable", err)
			}
		})
	}
	if _, err := os.Stat(stale); err != nil {
		t.Errorf("the stale socket is gone, so the case proves nothing: %v", err)
	}
}

// cutting gives a client of an agent that promises more than it sends.
func cutting(t *testing.T) *Client {
	return serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "[")
	})
}

func TestClientGivesUpWithItsContext(t *testing.T) {
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := c.Add(ctx, exampleAttachment())
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnreachable) {
		t.Errorf("error = %v, want the context's, because a slow agent is not a missing one", err)
	}
}

func TestClientRefusesNonsense(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{") })
	_, err := c.Services(t.Context())
	if err == nil || !strings.Contains(err.Error(), "decode the agent's answer to GET /v1/services") {
		t.Errorf("error = %v", err)
	}
}
