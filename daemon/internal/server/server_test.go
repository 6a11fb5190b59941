// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluice-lb/sluice/daemon/api"
)

var equateAddrs = cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})

// fakeAttachments is a set in memory that can be told to fail.
type fakeAttachments struct {
	mu      sync.Mutex
	byKey   map[api.Key]api.Attachment
	failing error
}

func (f *fakeAttachments) Put(a api.Attachment) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failing != nil {
		return f.failing
	}
	f.byKey[a.Key()] = a
	return nil
}

func (f *fakeAttachments) Get(k api.Key) (api.Attachment, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.byKey[k]
	return a, ok
}

func (f *fakeAttachments) Remove(k api.Key) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.byKey, k)
	return f.failing
}

func newOptions() (Options, *fakeAttachments) {
	set := &fakeAttachments{byKey: map[api.Key]api.Attachment{}}
	return Options{
		Attachments: set,
		Serve:       func(context.Context, api.Attachment) error { return nil },
		Services:    func() ([]api.Service, error) { return nil, nil },
		Issues:      func() ([]api.Issue, error) { return nil, nil },
		State:       func() any { return nil },
		Ready:       func() error { return nil },
		Metrics:     http.NotFoundHandler(),
		Logger:      slog.New(slog.DiscardHandler),
	}, set
}

func exampleAttachment() api.Attachment {
	return api.Attachment{
		ContainerID: "c0ffee", IfName: "net1", Pod: api.Pod{Namespace: "default", Name: "nginx-0"},
		Netns: "/run/netns/x", NetnsInode: 7, MAC: [6]byte{2, 0, 0, 0, 0, 1}, MasterIndex: 3,
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.20.20/24")},
	}
}

// start runs a server on a new socket until the test ends, and gives a client of it.
func start(t *testing.T, opts Options) (*api.Client, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "sluice", "agent.sock")
	startServer(t, New(opts), socket)
	return api.NewClient(socket), socket
}

// startServer runs a server until the test ends, and waits until it listens.
func startServer(t *testing.T, s *Server, socket string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, socket) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil after cancel", err)
		}
	})
	mustListen(t, socket)
}

// mustListen waits until somebody listens on the socket.
func mustListen(t *testing.T, socket string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("nobody listens on %s: %v", socket, err)
		}
	}
}

func TestAttachmentLife(t *testing.T) {
	opts, set := newOptions()
	var synced []api.Key
	opts.Serve = func(context.Context, api.Attachment) error {
		for k := range set.byKey {
			synced = append(synced, k)
		}
		return nil
	}
	client, _ := start(t, opts)
	a := exampleAttachment()

	if err := client.Add(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]api.Key{a.Key()}, synced); diff != "" {
		t.Errorf("attachments in the set at Serve (-want +got):\n%s", diff)
	}
	got, err := client.Get(t.Context(), a.Key())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, got, equateAddrs); diff != "" {
		t.Errorf("attachment (-want +got):\n%s", diff)
	}
	for range 2 { // removing what is unknown succeeds
		if err := client.Remove(t.Context(), a.Key()); err != nil {
			t.Fatal(err)
		}
	}
	_, err = client.Get(t.Context(), a.Key())
	wantError(t, err, api.CodeUnknownContainer, "does not know attachment c0ffee/net1")
}

func TestAttachmentStaysWhenTheDatapathFails(t *testing.T) {
	opts, set := newOptions()
	opts.Serve = func(context.Context, api.Attachment) error { return errors.New("attach tcx to eth1: no such device") }
	client, _ := start(t, opts)
	a := exampleAttachment()
	err := client.Add(t.Context(), a)
	wantError(t, err, api.CodeTryAgain, "does not serve attachment c0ffee/net1 yet: attach tcx to eth1: no such device")
	if _, ok := set.Get(a.Key()); !ok {
		t.Error("the attachment did not stay")
	}
}

func wantError(t *testing.T, err error, code uint, text string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Error(), text) {
		t.Errorf("error = %#v, want code %d and %q", err, code, text)
	}
}

func TestRefusals(t *testing.T) {
	valid := string(mustJSON(t, exampleAttachment()))
	tests := map[string]struct {
		method, path, body string
		failing            error
		status             int
		want               api.Error
	}{
		"no JSON": {
			method: "POST", path: "/v1/attachments", body: "{", status: 400,
			want: api.Error{Code: 7, Msg: "the body is no attachment", Details: "unexpected end of JSON input"},
		},
		"not valid": {
			method: "POST", path: "/v1/attachments", body: strings.Replace(valid, "c0ffee", "../x", 1), status: 400,
			want: api.Error{
				Code: 7, Msg: "the body is no attachment",
				Details: `container ID "../x": want 1 to 200 characters that begin with a letter or digit`,
			},
		},
		"too large": {
			method: "POST", path: "/v1/attachments", body: strings.Repeat(" ", maxBody+1), status: 400,
			want: api.Error{Code: 7, Msg: "the body is no attachment", Details: "http: request body too large"},
		},
		"the set's own error": {
			method: "POST", path: "/v1/attachments", body: valid, status: 503,
			failing: &api.Error{Code: 11, Msg: "not spooled"}, want: api.Error{Code: 11, Msg: "not spooled"},
		},
		"a fault of the set": {
			method: "DELETE", path: "/v1/attachments/c0ffee/net1", status: 500, failing: errors.New("disk on fire"),
			want: api.Error{Code: 999, Msg: "attachment c0ffee/net1 is not removed", Details: "disk on fire"},
		},
		"unsafe name": {
			method: "DELETE", path: "/v1/attachments/..%2Fx/net1", status: 400,
			want: api.Error{
				Code: 7, Msg: "the path names no attachment",
				Details: `container ID "../x": want 1 to 200 characters that begin with a letter or digit`,
			},
		},
		"a path of another version": {
			method: "POST", path: "/v2/attachments", body: valid, status: 404,
			want: api.Error{
				Code: 1,
				Msg:  "this agent has no POST /v2/attachments: use plugin, agent and command line of one version",
			},
		},
		"a method of another version": {
			method: "PUT", path: "/v1/services", status: 404,
			want: api.Error{
				Code: 1,
				Msg:  "this agent has no PUT /v1/services: use plugin, agent and command line of one version",
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			opts, set := newOptions()
			set.failing = tc.failing
			status, body := request(t, New(opts), tc.method, tc.path, tc.body)
			if status != tc.status {
				t.Errorf("status = %d, want %d", status, tc.status)
			}
			var got api.Error
			if err := json.Unmarshal(body, &got); err != nil {
				t.Fatalf("body %q: %v", body, err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func request(t *testing.T, handler http.Handler, method, path, body string) (int, []byte) {
	t.Helper()
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	data, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, data
}

func TestViews(t *testing.T) {
	opts, _ := newOptions()
	opts.State = func() any { return map[string]string{"node": "node1"} }
	opts.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "sluice_up 1\n")
	})
	unready, broken, endless := opts, opts, opts
	unready.Ready = func() error { return errors.New("no BPF") }
	broken.Services = func() ([]api.Service, error) { return nil, errors.New("map is gone") }
	broken.Issues = func() ([]api.Issue, error) { return nil, &api.Error{Code: api.CodeTryAgain, Msg: "not yet"} }
	endless.State = func() any { return math.Inf(1) }
	tests := map[string]struct {
		handler http.Handler
		path    string
		status  int
		body    string
	}{
		"services, none": {New(opts), "/v1/services", 200, "[]\n"},
		"services, not known": {
			New(broken), "/v1/services", 500,
			`{"code":999,"msg":"the services are not known","details":"map is gone"}` + "\n",
		},
		"issues, none":         {New(opts), "/v1/issues", 200, "[]\n"},
		"issues, not known":    {New(broken), "/v1/issues", 503, `{"code":11,"msg":"not yet"}` + "\n"},
		"state":                {New(opts), "/debug/state", 200, `{"node":"node1"}` + "\n"},
		"state, not encodable": {New(endless), "/debug/state", 500, "the answer is not encodable\n"},
		"healthy":              {New(unready), "/healthz", 200, "ok\n"},
		"ready":                {New(opts), "/readyz", 200, "ok\n"},
		"not ready":            {New(unready), "/readyz", 503, "no BPF\n"},
		"metrics":              {New(opts), "/metrics", 200, "sluice_up 1\n"},

		"over the network, metrics":        {New(opts).HealthHandler(), "/metrics", 200, "sluice_up 1\n"},
		"over the network, not ready":      {New(unready).HealthHandler(), "/readyz", 503, "no BPF\n"},
		"over the network, healthy":        {New(opts).HealthHandler(), "/healthz", 200, "ok\n"},
		"over the network, nothing beyond": {New(opts).HealthHandler(), "/debug/state", 404, "404 page not found\n"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			status, body := request(t, tc.handler, "GET", tc.path, "")
			if status != tc.status || string(body) != tc.body {
				t.Errorf("answer = %d %q, want %d %q", status, body, tc.status, tc.body)
			}
		})
	}
}

func TestClientReadsTheViews(t *testing.T) {
	opts, _ := newOptions()
	want := []api.Service{{Namespace: "default", Name: "web", VIP: netip.MustParseAddr("192.168.20.240"), Port: 80}}
	opts.Services = func() ([]api.Service, error) { return want, nil }
	wantIssues := []api.Issue{{Object: "Interface eth1", Reason: "ProgramAhead", Message: "move it"}}
	opts.Issues = func() ([]api.Issue, error) { return wantIssues, nil }
	opts.State = func() any { return []int{1} }
	opts.Ready = func() error { return errors.New("no BPF") }
	client, _ := start(t, opts)
	got, err := client.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, equateAddrs); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	issues, err := client.Issues(t.Context())
	if diff := cmp.Diff(wantIssues, issues, equateAddrs); diff != "" || err != nil {
		t.Errorf("issues (-want +got):\n%s%v", diff, err)
	}
	state, err := client.State(t.Context())
	if err != nil || strings.TrimSpace(string(state)) != "[1]" {
		t.Errorf("state = %q, %v", state, err)
	}
	wantError(t, client.Ready(t.Context()), api.CodeTryAgain, "no BPF")
}

func TestSocketIsRootsOnly(t *testing.T) {
	opts, _ := newOptions()
	_, socket := start(t, opts)
	for path, want := range map[string]os.FileMode{socket: 0o600, filepath.Dir(socket): 0o700} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %s = %o, want %o", path, got, want)
		}
	}
}

func TestRunTakesTheSocketOfADeadAgentOnly(t *testing.T) {
	opts, _ := newOptions()
	_, socket := start(t, opts)
	err := New(opts).Run(t.Context(), socket)
	if err == nil || !strings.Contains(err.Error(), "another agent listens on "+socket) {
		t.Errorf("second agent: error = %v", err)
	}
	if err := api.NewClient(socket).Ready(t.Context()); err != nil {
		t.Errorf("the first agent has lost its socket: %v", err)
	}

	stale := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- New(opts).Run(ctx, stale) }()
	mustListen(t, stale)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after Run: %v, want none", err)
	}

	file := filepath.Join(t.TempDir(), "agent.sock")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := New(opts).Run(t.Context(), file); err == nil || !strings.Contains(err.Error(), "no socket: remove it") {
		t.Errorf("a file in the way: error = %v", err)
	}
}

func TestRunLetsRequestsEnd(t *testing.T) {
	opts, _ := newOptions()
	entered, release := make(chan struct{}), make(chan struct{})
	opts.Serve = func(context.Context, api.Attachment) error {
		close(entered)
		<-release
		return nil
	}
	socket := filepath.Join(t.TempDir(), "agent.sock")
	ctx, cancel := context.WithCancel(t.Context())
	ran, added := make(chan error, 1), make(chan error, 1)
	go func() { ran <- New(opts).Run(ctx, socket) }()
	mustListen(t, socket)
	go func() { added <- api.NewClient(socket).Add(t.Context(), exampleAttachment()) }()
	<-entered
	cancel()
	close(release)
	if err := <-added; err != nil {
		t.Errorf("the request did not end well: %v", err)
	}
	if err := <-ran; err != nil {
		t.Errorf("Run = %v", err)
	}
}
