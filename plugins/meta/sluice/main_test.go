// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

// The tests run the real binary behind the real macvlan and host-local:
//
//	eth1 (veth, the master) ── net1 (macvlan bridge) in the pod's network namespace
//
// in namespaces of their own, so the compiled-in paths under /run are the tests' own too.
func TestMain(m *testing.M) { os.Exit(testkit.Isolate(m)) }

var equateAddrs = cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})

// network is a chain that a test spoils or widens before it runs it.
type network struct {
	version string // cniVersion
	macvlan string // further keys of the macvlan element
	ipam    string // JSON
	between string // further elements before sluice, each with a comma
	sluice  string // further keys of the sluice element
}

func newNetwork(t *testing.T) network {
	return network{
		version: "1.0.0",
		ipam: fmt.Sprintf(`{"type": "host-local", "dataDir": %q, "subnet": "192.168.20.0/24",
			"rangeStart": "192.168.20.20", "rangeEnd": "192.168.20.200", "gateway": "192.168.20.1"}`, t.TempDir()),
		sluice: `, "vips": ["192.168.20.240-192.168.20.250"]`,
	}
}

// newDualStack is newNetwork with IPv6, and slower: macvlan waits for duplicate address detection.
func newDualStack(t *testing.T) network {
	n := newNetwork(t)
	n.ipam = fmt.Sprintf(`{"type": "host-local", "dataDir": %q, "ranges": [
		[{"subnet": "192.168.20.0/24", "rangeStart": "192.168.20.20", "gateway": "192.168.20.1"}],
		[{"subnet": "fd00:20::/64", "rangeStart": "fd00:20::20", "gateway": "fd00:20::1"}]]}`, t.TempDir())
	return n
}

func (n network) String() string {
	return fmt.Sprintf(`{"cniVersion": %q, "name": "macvlan1", "plugins": [
		{"type": "macvlan", "master": "eth1", "ipam": %s%s}, %s
		{"type": "sluice"%s}]}`, n.version, n.ipam, n.macvlan, n.between, n.sluice)
}

// stdin gives what the runtime sends to sluice alone.
func (n network) stdin(prevResult string) string {
	return fmt.Sprintf(`{"cniVersion": %q, "name": "macvlan1", "type": "sluice"%s, "prevResult": %s}`,
		n.version, n.sluice, prevResult)
}

// mustAdd runs the chain, and its DEL when the test ends.
func mustAdd(t *testing.T, pod *cnitest.Pod, n network) types.Result {
	t.Helper()
	result, err := pod.Add(t.Context(), n.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pod.Del(context.WithoutCancel(t.Context()), n.String()); err != nil {
			t.Errorf("DEL at the end: %v", err)
		}
	})
	return result
}

func mustSpooled(t *testing.T, pod *cnitest.Pod) api.Attachment {
	t.Helper()
	a, err := api.ReadSpool(api.SpoolDir, api.Key{ContainerID: pod.ContainerID, IfName: pod.IfName})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// wantNothingLeft checks that neither spool nor pod hold anything of ours.
func wantNothingLeft(t *testing.T, pod *cnitest.Pod) {
	t.Helper()
	entries, err := os.ReadDir(api.SpoolDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if len(entries) != 0 {
		t.Errorf("the spool holds %v, want nothing", entries)
	}
	wantNoRouting(t, pod)
}

func wantNoRouting(t *testing.T, pod *cnitest.Pod) {
	t.Helper()
	pod.Do(t, func() error {
		rules, err := netlinksafe.RuleList(netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if isReplyRule(r) {
				t.Errorf("a rule is left: %s", r)
			}
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := tableRoutes(family, func(table int) bool { return table >= tableBase })
			if err != nil {
				return err
			}
			if len(routes) != 0 {
				t.Errorf("routes are left: %v", routes)
			}
		}
		return nil
	})
}

// wantRefusal checks the error's code and that its text names the pod, the interface, and all that is wanted.
func wantRefusal(t *testing.T, err error, code uint, want ...string) {
	t.Helper()
	var e *types.Error
	if !errors.As(err, &e) {
		t.Fatalf("error = %v, want a CNI error", err)
	}
	if e.Code != code {
		t.Errorf("code = %d, want %d", e.Code, code)
	}
	for _, w := range append(want, "sluice: pod default/", ", interface net1: ") {
		if !strings.Contains(e.Msg, w) {
			t.Errorf("message = %q, want it to contain %q", e.Msg, w)
		}
	}
}

// agentDouble is a double of the node's agent: it holds attachments in memory, and can refuse or hang.
type agentDouble struct {
	mu      sync.Mutex
	held    map[string]api.Attachment
	removed []string
	refusal *api.Error
	unready string // what /readyz complains of
	hang    bool
	hanging chan struct{} // gets a value for each request that hangs
}

// startAgent makes the agent listen where the plugin calls, until the test ends.
func startAgent(t *testing.T) *agentDouble {
	t.Helper()
	a := &agentDouble{held: map[string]api.Attachment{}, hanging: make(chan struct{}, 10)}
	if err := os.MkdirAll(api.RunDir, 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", api.Socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: a}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return a
}

func (a *agentDouble) set(change func(*agentDouble)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

func (a *agentDouble) holds() map[string]api.Attachment {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.held)
}

func (a *agentDouble) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hang {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the caller has gone
		a.hanging <- struct{}{}
		<-r.Context().Done()
		return
	}
	if a.refusal != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		_ = json.NewEncoder(w).Encode(a.refusal)
		return
	}
	if r.URL.Path == "/readyz" {
		if a.unready != "" {
			http.Error(w, a.unready, http.StatusServiceUnavailable)
		}
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/v1/attachments/")
	switch r.Method {
	case http.MethodPost:
		var attachment api.Attachment
		if err := json.NewDecoder(r.Body).Decode(&attachment); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		a.held[attachment.Key().String()] = attachment
	case http.MethodDelete:
		delete(a.held, name)
		a.removed = append(a.removed, name)
	case http.MethodGet:
		attachment, ok := a.held[name]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(api.Error{Code: api.CodeUnknownContainer, Msg: "unknown attachment " + name})
			return
		}
		_ = json.NewEncoder(w).Encode(attachment)
	}
}

func TestGuardTurnsAPanicIntoACNIError(t *testing.T) {
	err := guard(func(*skel.CmdArgs) error { panic("boom") })(&skel.CmdArgs{ContainerID: "c1", IfName: "net1"})
	var e *types.Error
	if !errors.As(err, &e) || e.Code != types.ErrInternal || !strings.Contains(e.Msg, "container c1, interface net1") ||
		!strings.Contains(e.Msg, "boom") {
		t.Errorf("error = %v", err)
	}
}

func TestSubjectReadsWhatMultusSends(t *testing.T) {
	// Multus puts the runtime's own arguments behind its pairs, so keys come twice; MAC and IP come too.
	s := newSubject(&skel.CmdArgs{IfName: "net1", Args: "IgnoreUnknown=true;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=p1;" +
		"K8S_POD_UID=u-1;MAC=02:00:00:00:00:01;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=p1;K8S_POD_UID=u-2"})
	if want := (api.Pod{Namespace: "ns1", Name: "p1", UID: "u-2"}); s.pod != want {
		t.Errorf("pod = %+v, want %+v", s.pod, want)
	}
	if s := newSubject(&skel.CmdArgs{Args: "UNKNOWN=1"}); s.pod != (api.Pod{}) {
		t.Errorf("pod = %+v, want none", s.pod)
	}
}

// TestVerbsAreRefusedBeforeTheirVersion: libcni does not pass such verbs on, but another runtime may.
func TestVerbsAreRefusedBeforeTheirVersion(t *testing.T) {
	testkit.Require(t, testkit.Root)
	pod := cnitest.NewPod(t, "web")
	n := newNetwork(t)
	for verb, version := range map[string]string{"CHECK": "0.3.1", "GC": "1.0.0", "STATUS": "1.0.0"} {
		n.version = version
		_, err := pod.Exec(t.Context(), verb, n.stdin("null"), nil)
		var e *types.Error
		if !errors.As(err, &e) || e.Code != types.ErrIncompatibleCNIVersion {
			t.Errorf("%s of version %s = %v, want code 1", verb, version, err)
		}
	}
}
