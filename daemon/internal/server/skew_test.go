// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

// relay puts something between the plugin and an agent, in the agent's place.
func relay(t *testing.T, handler http.HandlerFunc) {
	t.Helper()
	opts, _ := newOptions()
	server := New(opts)
	server.mux = http.NewServeMux()
	server.mux.Handle("/", handler)
	startServer(t, server, api.Socket)
}

// TestAgentOfAnotherVersion: an agent that does not know the plugin's calls. All it can do is to say so, by the handler
// that every version has.
func TestAgentOfAnotherVersion(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	config := strings.Replace(chain(t), `"1.0.0"`, `"1.1.0"`, 1)
	opts, _ := newOptions()
	newer := New(opts)
	relay(t, func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.Replace(r.URL.Path, "/v1/", "/v0/", 1)
		if r.URL.Path == "/readyz" {
			r.URL.Path = "/v0/readyz"
		}
		newer.ServeHTTP(w, r)
	})
	pod := cnitest.NewPod(t, "a")
	_, err := pod.Add(t.Context(), config)
	wantCNIError(t, err, types.ErrIncompatibleCNIVersion, "use plugin, agent and command line of one version")
	if keys, err := api.SpoolKeys(api.SpoolDir); err != nil || len(keys) != 0 {
		t.Errorf("spooled after the refusal: %v, %v", keys, err)
	}
	wantCNIError(t, pod.Status(t.Context(), config), types.ErrIncompatibleCNIVersion, "of one version")
	if err := pod.Del(t.Context(), config); err != nil {
		t.Errorf("DEL = %v, want success", err)
	}
}

func wantCNIError(t *testing.T, err error, code uint, text string) {
	t.Helper()
	if outcome(err) != outcome(&types.Error{Code: code}) || !strings.Contains(err.Error(), text) {
		t.Errorf("error = %v, want code %d and %q", err, code, text)
	}
}

// TestNewerPlugin: a plugin that spools and sends more than the agent knows. The agent gives back what it knows, and
// that is no drift.
func TestNewerPlugin(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	config := chain(t)
	n := startNode(t, served)
	pod := cnitest.NewPod(t, "a")
	mustAdd(t, pod, config)
	n.wait("a")

	path := filepath.Join(api.SpoolDir, api.SpoolName(api.Key{ContainerID: pod.ContainerID, IfName: pod.IfName}))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(string(data), "{", `{"invented": {"later": [1]},`, 1)
	if err := os.WriteFile(path, []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, body := post(t, newer); status != http.StatusNoContent {
		t.Errorf("announcement = %d %s, want it to be taken", status, body)
	}
	if err := pod.Check(t.Context(), config); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	n.stop()
	n = startNode(t, served) // and it reads the spool of a newer plugin
	n.wait("a")
	if err := pod.Del(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	n.wait()
}

// post announces an attachment in JSON to the agent.
func post(t *testing.T, body string) (int, []byte) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", api.Socket)
		},
		DisableKeepAlives: true,
	}}
	resp, err := client.Post("http://sluice/v1/attachments", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer
}

// TestOtherAgentsAnswers: the agent leaves out what the datapath does not work with, as an older one does, or tells more
// than the plugin knows, as a newer one does. Neither is drift; another MAC is.
func TestOtherAgentsAnswers(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	config := chain(t)
	opts, set := newOptions()
	behind := New(opts)
	var change atomic.Pointer[func(map[string]any)]
	relay(t, func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		behind.ServeHTTP(answer, r)
		body := answer.Body.Bytes()
		if r.Method == http.MethodGet && answer.Code == http.StatusOK {
			var fields map[string]any
			if err := json.Unmarshal(body, &fields); err != nil {
				t.Errorf("answer %s: %v", body, err)
			}
			(*change.Load())(fields)
			body, _ = json.Marshal(fields)
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(body)
	})
	pod := cnitest.NewPod(t, "a")
	mustAdd(t, pod, config)
	defer func() { _ = pod.Del(t.Context(), config) }()
	if _, ok := set.Get(api.Key{ContainerID: pod.ContainerID, IfName: pod.IfName}); !ok {
		t.Fatal("the agent does not hold the attachment")
	}
	tests := map[string]struct {
		change func(map[string]any)
		want   string
	}{
		"older":       {func(f map[string]any) { delete(f, "gateways"); delete(f, "mode"); delete(f, "pod") }, "ok"},
		"newer":       {func(f map[string]any) { f["invented"] = map[string]any{"later": 1} }, "ok"},
		"another MAC": {func(f map[string]any) { f["mac"] = "02:00:00:00:00:99" }, "code 100"},
		"no address":  {func(f map[string]any) { delete(f, "addresses") }, "code 100"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			change.Store(&tc.change)
			if got := outcome(pod.Check(t.Context(), config)); got != tc.want {
				t.Errorf("CHECK is %s, want %s", got, tc.want)
			}
		})
	}
}

// outcome says an error in one word.
func outcome(err error) string {
	var e *types.Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e):
		return fmt.Sprintf("code %d", e.Code)
	}
	return err.Error()
}
