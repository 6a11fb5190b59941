// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

func TestDelRemovesWhatAddHasMade(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	agent := startAgent(t)
	pod := cnitest.NewPod(t, "web")
	n := newDualStack(t)
	mustAdd(t, pod, n)
	for range 2 { // runtimes repeat DEL
		if _, err := pod.Exec(t.Context(), "DEL", n.stdin(`{"cniVersion": "1.0.0"}`), nil); err != nil {
			t.Fatal(err)
		}
		wantNothingLeft(t, pod)
		if held := agent.holds(); len(held) != 0 {
			t.Errorf("the agent still holds %v", held)
		}
	}
}

// TestDelAlwaysSucceeds: whatever is missing or damaged, the attachment is forgotten and the chain goes on.
func TestDelAlwaysSucceeds(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	config := newNetwork(t).stdin(`{"cniVersion": "1.0.0"}`)
	unset := func(name string) map[string]string { return map[string]string{name: ""} }
	tests := map[string]struct {
		stdin string
		env   map[string]string
		spoil func(*testing.T, *cnitest.Pod)
		// routingStays tells that the routing cannot be found, and goes with the namespace.
		routingStays bool
	}{
		"all there":             {stdin: config},
		"no prevResult":         {stdin: `{"cniVersion": "1.0.0", "name": "macvlan1", "type": "sluice"}`},
		"old version":           {stdin: `{"cniVersion": "0.3.1", "name": "macvlan1", "type": "sluice"}`},
		"no version":            {stdin: `{"name": "macvlan1", "type": "sluice", "ipam": {}}`},
		"version of the future": {stdin: `{"cniVersion": "9.9.9", "name": "macvlan1", "type": "sluice"}`},
		"no name":               {stdin: `{"cniVersion": "1.0.0", "type": "sluice"}`},
		"bad own keys":          {stdin: `{"cniVersion": "1.0.0", "name": "macvlan1", "vips": 7, "bfd": []}`},
		"damaged prevResult":    {stdin: `{"cniVersion": "1.0.0", "name": "macvlan1", "prevResult": {"ips": 7}}`},
		"damaged configuration": {stdin: `{"cniVersion": "1.0`},
		"no configuration":      {stdin: ""},
		"no netns":              {stdin: config, env: unset("CNI_NETNS"), routingStays: true},
		"netns is gone": {
			stdin:        config,
			env:          map[string]string{"CNI_NETNS": "/run/netns/gone"},
			routingStays: true,
		},
		"netns is no namespace": {stdin: config, env: map[string]string{"CNI_NETNS": "/etc/hostname"}, routingStays: true},
		"netns is the host's": {
			stdin:        config,
			env:          map[string]string{"CNI_NETNS": "/proc/self/ns/net"},
			routingStays: true,
		},
		"no arguments":          {stdin: config, env: unset("CNI_ARGS")},
		"link is gone":          {stdin: config, spoil: mustRemoveLink},
		"spool file is gone":    {stdin: config, spoil: mustRemoveSpool},
		"spool file is damaged": {stdin: config, spoil: mustDamageSpool},
		"spool and link are gone ": {
			stdin:        config,
			spoil:        func(t *testing.T, p *cnitest.Pod) { mustRemoveSpool(t, p); mustRemoveLink(t, p) },
			routingStays: true,
		},
		"spool directory is gone": {stdin: config, spoil: func(*testing.T, *cnitest.Pod) { _ = os.RemoveAll(api.RunDir) }},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := cnitest.NewPod(t, "web")
			mustAdd(t, pod, newNetwork(t))
			if tc.spoil != nil {
				tc.spoil(t, pod)
			}
			out, err := pod.Exec(t.Context(), "DEL", tc.stdin, tc.env)
			if err != nil || out != "" {
				t.Fatalf("DEL = %v, with output %q; want success and silence", err, out)
			}
			if _, err := os.Stat(spoolPath(pod)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("spool file after DEL: %v, want none", err)
			}
			if !tc.routingStays {
				wantNoRouting(t, pod)
			}
		})
	}
}

// TestDelLeavesTheHostAlone: a path in /proc may have come to mean the host's namespace, where an interface of the same
// name may be.
func TestDelLeavesTheHostAlone(t *testing.T) {
	testkit.Require(t, testkit.Root)
	link := cnitest.Master(t, "net1")
	r := reply{
		addr: netip.MustParsePrefix("192.168.20.20/24"), gateway: netip.MustParseAddr("192.168.20.1"),
		table: tableBase + link.Attrs().Index*tablesPerLink, link: link.Attrs().Index,
	}
	if err := r.add(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = removeReplies(link.Attrs().Index) })
	pod := cnitest.NewPod(t, "web")
	env := map[string]string{"CNI_NETNS": "/proc/self/ns/net"}
	if _, err := pod.Exec(t.Context(), "DEL", newNetwork(t).stdin(`{"cniVersion": "1.0.0"}`), env); err != nil {
		t.Fatal(err)
	}
	if err := r.check(); err != nil {
		t.Errorf("the host's routing after DEL: %v", err)
	}
}

func mustRemoveLink(t *testing.T, pod *cnitest.Pod) {
	t.Helper()
	pod.Do(t, func() error { return netlink.LinkDel(mustLink(t, pod.IfName)) })
}

func spoolPath(pod *cnitest.Pod) string {
	return filepath.Join(api.SpoolDir, api.SpoolName(api.Key{ContainerID: pod.ContainerID, IfName: pod.IfName}))
}

func mustRemoveSpool(t *testing.T, pod *cnitest.Pod) {
	t.Helper()
	if err := os.Remove(spoolPath(pod)); err != nil {
		t.Fatal(err)
	}
}

func mustDamageSpool(t *testing.T, pod *cnitest.Pod) {
	t.Helper()
	if err := os.WriteFile(spoolPath(pod), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDelOfAnUnknownAttachmentSucceeds(t *testing.T) {
	testkit.Require(t, testkit.Root)
	agent := startAgent(t)
	pod := cnitest.NewPod(t, "never-added")
	if _, err := pod.Exec(t.Context(), "DEL", newNetwork(t).stdin(`{"cniVersion": "1.0.0"}`), nil); err != nil {
		t.Fatal(err)
	}
	var removed []string
	agent.set(func(a *agentDouble) { removed = a.removed })
	if diff := cmp.Diff([]string{"c-never-added/net1"}, removed); diff != "" {
		t.Errorf("removed at the agent (-want +got):\n%s", diff)
	}
}

func TestDelDoesNotWaitLongForTheAgent(t *testing.T) {
	testkit.Require(t, testkit.Root)
	agent := startAgent(t)
	agent.set(func(a *agentDouble) { a.hang = true })
	pod := cnitest.NewPod(t, "web")
	begin := time.Now()
	if _, err := pod.Exec(t.Context(), "DEL", newNetwork(t).stdin(`{"cniVersion": "1.0.0"}`), nil); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("DEL took %v, want about %v", took, delTime)
	}
}

// TestDelLetsTheChainClean: our DEL comes first, and what macvlan and host-local have made must still go.
func TestDelLetsTheChainClean(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	pod := cnitest.NewPod(t, "web")
	n := newNetwork(t)
	if _, err := pod.Add(t.Context(), n.String()); err != nil {
		t.Fatal(err)
	}
	if err := pod.Del(t.Context(), n.String()); err != nil {
		t.Fatal(err)
	}
	pod.Do(t, func() error {
		links, err := netlink.LinkList() //nolint:forbidigo // a namespace that nothing else uses
		if len(links) != 1 {
			t.Errorf("links after DEL: %v, want loopback only", links)
		}
		return err
	})
}

func TestDelRefusesOnlyWhatNamesNoAttachment(t *testing.T) {
	testkit.Require(t, testkit.Root)
	pod := cnitest.NewPod(t, "web")
	for _, env := range []map[string]string{{"CNI_CONTAINERID": ""}, {"CNI_CONTAINERID": "../x"}, {"CNI_IFNAME": "a/b"}} {
		_, err := pod.Exec(t.Context(), "DEL", newNetwork(t).stdin(`{"cniVersion": "1.0.0"}`), env)
		var e *types.Error
		if !errors.As(err, &e) || e.Code != types.ErrInvalidEnvironmentVariables {
			t.Errorf("DEL with %v = %v, want code 4", env, err)
		}
	}
}

func TestVersionListsAllVersions(t *testing.T) {
	testkit.Require(t, testkit.Root)
	pod := cnitest.NewPod(t, "web")
	out, err := pod.Exec(t.Context(), "VERSION", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"cniVersion":        "1.1.0",
		"supportedVersions": []any{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"},
	}
	if diff := cmp.Diff(want, mustDecode(t, out)); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
}
