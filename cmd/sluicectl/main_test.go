// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"flag"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"sigs.k8s.io/yaml"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/ether"
)

var update = flag.Bool("update", false, "rewrite the outputs in testdata")

var services = []api.Service{
	{
		Namespace: "default", Name: "dns", Network: "default/macvlan1", VIP: netip.MustParseAddr("192.168.20.242"), Port: 53,
		Protocol: "UDP", Algorithm: "maglev", Mode: "direct", Master: "eth1", State: "no-backends", Backends: []api.Backend{},
	},
	{
		Namespace: "default", Name: "multus-service", Network: "default/macvlan1",
		VIP: netip.MustParseAddr("192.168.20.240"), Port: 55003, Protocol: "TCP", Algorithm: "maglev", Mode: "direct",
		Owner: "node-c", Master: "eth1", State: "active", Counters: api.Counters{Connections: 12, Packets: 3400, Bytes: 991200},
		Backends: []api.Backend{
			{
				Pod: "default/web-0", Node: "node-a", Address: netip.MustParseAddr("192.168.20.21"),
				MAC: ether.MAC{2, 0, 0, 0, 0, 0x21}, Port: 80, Weight: 1, State: "active", Local: true,
				Counters: api.Counters{Connections: 12, Packets: 3400, Bytes: 991200},
			},
			{
				Pod: "default/web-1", Address: netip.MustParseAddr("192.168.20.22"),
				MAC: ether.MAC{2, 0, 0, 0, 0, 0x22}, Port: 8080, Weight: 1, State: "draining",
			},
		},
	},
	{
		Namespace: "default", Name: "multus-service", Network: "default/macvlan1",
		VIP: netip.MustParseAddr("fd00:20::f0"), Port: 55003, Protocol: "TCP", Algorithm: "maglev", Mode: "direct",
		Owner: "node-a", Master: "eth1", State: "active",
		Backends: []api.Backend{{
			Pod: "default/web-0", Node: "node-a", Address: netip.MustParseAddr("fd00:20::21"),
			MAC: ether.MAC{2, 0, 0, 0, 0, 0x21}, Port: 80, Weight: 1, State: "active", Local: true,
		}},
	},
}

// masterDown is the same services on a node whose eth1 is down.
func masterDown() []api.Service {
	down := slices.Clone(services)
	for i := range down {
		down[i].State = api.StateMasterDown
	}
	return down
}

var issues = []api.Issue{
	{Object: "Interface eth1", Reason: "ProgramAhead", Message: `tcx ingress: program "other" (id 7) is first`},
	{Object: "Service default/dns", Reason: "Pending", Message: "correct spec.ports"},
}

// agent serves the given Services and issues on a socket, as an agent does, until the test ends.
func agent(t *testing.T, services []api.Service, issues []api.Issue) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/services", func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(services); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("GET /v1/issues", func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(issues); err != nil {
			t.Error(err)
		}
	})
	server := &http.Server{Handler: mux}
	t.Cleanup(func() { server.Close() })
	go server.Serve(listener)
	return socket
}

func TestGetPrints(t *testing.T) {
	for _, tt := range []struct {
		name     string
		services []api.Service
		issues   []api.Issue
		args     []string
	}{
		{"table.txt", services, nil, []string{"lb"}},
		{"wide.txt", services, nil, []string{"lb", "-o", "wide"}},
		{"services.json", services, nil, []string{"lb", "-o", "json"}},
		{"services.yaml", services, nil, []string{"lb", "--output=yaml"}},
		{"down.txt", masterDown(), nil, []string{"lb", "-o", "wide"}},
		{"none.txt", nil, nil, []string{"lb"}},
		{"issues.txt", nil, issues, []string{"issues"}},
		{"issues.json", nil, issues, []string{"issues", "-o", "json"}},
		{"no-issues.txt", nil, nil, []string{"issues"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := mustRun(t, append([]string{"get", "--socket", agent(t, tt.services, tt.issues)}, tt.args...)...)
			golden := filepath.Join("testdata", tt.name)
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got; -update rewrites):\n%s", diff)
			}
		})
	}
}

func TestMachineFormatsAreTheAPI(t *testing.T) {
	socket := agent(t, services, nil)
	for format, decode := range map[string]func([]byte, any) error{
		"json": json.Unmarshal,
		"yaml": func(data []byte, v any) error { return yaml.Unmarshal(data, v) },
	} {
		var got []api.Service
		if err := decode([]byte(mustRun(t, "get", "lb", "--socket", socket, "-o", format)), &got); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		if diff := cmp.Diff(services, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s: %s", format, diff)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no agent", []string{"get", "lb", "--socket", filepath.Join(t.TempDir(), "none.sock")}, "while `sluiced agent` runs"},
		{"unknown format", []string{"get", "lb", "-o", "xml"}, `--output "xml": want wide, json or yaml`},
		{"unknown command", []string{"destroy"}, `unknown command "destroy"`},
		{"unknown noun", []string{"get", "coffee"}, `unknown command "coffee"`},
		{"too many arguments", []string{"get", "lb", "web"}, `unknown command "web"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			if code := run(tt.args, &stdout, &stderr); code != 1 {
				t.Errorf("exit code %d", code)
			}
			if stdout.String() != "" {
				t.Errorf("on stdout: %q", stdout.String())
			}
			if !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("stderr %q does not hold %q", stderr.String(), tt.want)
			}
		})
	}
}

func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr strings.Builder
	if code := run(args, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	return stdout.String()
}
