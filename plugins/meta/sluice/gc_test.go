// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

// mustSpool makes the spool hold attachments, each of a network, and nothing else. Their namespaces are gone.
func mustSpool(t *testing.T, networks map[api.Key]string) {
	t.Helper()
	if err := os.RemoveAll(api.SpoolDir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(api.SpoolDir) })
	for k, network := range networks {
		err := api.WriteSpool(api.SpoolDir, api.Attachment{
			ContainerID: k.ContainerID, IfName: k.IfName, Network: network,
			Netns: "/run/netns/gone", NetnsInode: 1, MAC: [6]byte{2, 0, 0, 0, 0, 1}, MasterIndex: 1,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// spooledKeys gives what the spool holds, as text.
func spooledKeys(t *testing.T) (out []string) {
	t.Helper()
	keys, err := api.SpoolKeys(api.SpoolDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		out = append(out, k.String())
	}
	return out
}

// TestGC starts from a/net1, a/net2 and b/net1 on the network macvlan1, and x/net1 on another, without an agent.
func TestGC(t *testing.T) {
	testkit.Require(t, testkit.Root)
	pod := cnitest.NewPod(t, "runtime")
	all := []string{"a/net1", "a/net2", "b/net1", "x/net1"}
	damage := func(t *testing.T) {
		path := filepath.Join(api.SpoolDir, api.SpoolName(api.Key{ContainerID: "a", IfName: "net1"}))
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := map[string]struct {
		keys  string // of the element, besides version, name and type
		spoil func(*testing.T)
		stays []string
		code  uint
		want  []string // in the error
	}{
		"no list":     {keys: ``, stays: all},
		"null":        {keys: `, "cni.dev/valid-attachments": null`, stays: all},
		"empty list":  {keys: `, "cni.dev/valid-attachments": []`, stays: []string{"x/net1"}},
		"legacy list": {keys: `, "cni.dev/attachments": []`, stays: all},
		"some listed": {
			keys: `, "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "net2"},
				{"containerID": "b", "ifname": "net9"}, {"containerID": "unknown", "ifname": "net1"}]`,
			stays: []string{"a/net2", "x/net1"},
		},
		"all listed": {
			keys: `, "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "net1"},
				{"containerID": "a", "ifname": "net2"}, {"containerID": "b", "ifname": "net1"}]`,
			stays: all,
		},
		"bad own keys": {keys: `, "cni.dev/valid-attachments": [], "vips": 7, "required": "x"`, stays: []string{"x/net1"}},
		"no spool at all": {
			keys: `, "cni.dev/valid-attachments": []`, spoil: func(*testing.T) { _ = os.RemoveAll(api.SpoolDir) },
		},
		"entry without an interface": {
			keys: `, "cni.dev/valid-attachments": [{"containerID": "a"}]`, stays: all,
			code: 7, want: []string{`lacks "containerID" or "ifname" in entry 0`, "nothing is removed"},
		},
		"no list of attachments": {
			keys: `, "cni.dev/valid-attachments": "none"`, stays: all,
			code: 6, want: []string{"parse the network configuration"},
		},
		"damaged file": {
			keys: `, "cni.dev/valid-attachments": []`, spoil: damage, stays: []string{"a/net1", "x/net1"},
			code: 5, want: []string{"decode spool file", "remove /run/sluice/attachments/a@net1.json if its pod is gone"},
		},
		"damaged file, but listed": {
			keys:  `, "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "net1"}]`,
			spoil: damage, stays: []string{"a/net1", "x/net1"},
		},
		"damaged file, no list": {
			spoil: damage, stays: all, code: 5, want: []string{"decode spool file"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			mustSpool(t, map[api.Key]string{
				{ContainerID: "a", IfName: "net1"}: "macvlan1", {ContainerID: "a", IfName: "net2"}: "macvlan1",
				{ContainerID: "b", IfName: "net1"}: "macvlan1", {ContainerID: "x", IfName: "net1"}: "macvlan2",
			})
			if tc.spoil != nil {
				tc.spoil(t)
			}
			err := execGlobal(t, pod, "GC", `{"cniVersion": "1.1.0", "name": "macvlan1", "type": "sluice"`+tc.keys+`}`)
			wantGlobal(t, err, tc.code, tc.want...)
			if diff := cmp.Diff(tc.stays, spooledKeys(t), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("spooled after GC (-want +got):\n%s", diff)
			}
		})
	}
}

// execGlobal runs a verb that is about no attachment, with the variables that libcni sets for it.
func execGlobal(t *testing.T, pod *cnitest.Pod, verb, stdin string) error {
	t.Helper()
	out, err := pod.Exec(t.Context(), verb, stdin, map[string]string{
		"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": "", "CNI_ARGS": "",
	})
	if out != "" {
		t.Errorf("%s prints %q, want nothing", verb, out)
	}
	return err
}

// wantGlobal checks the outcome of a verb that is about no attachment; code 0 means success.
func wantGlobal(t *testing.T, err error, code uint, want ...string) {
	t.Helper()
	var e *types.Error
	switch {
	case code == 0 && err == nil:
		return
	case code == 0 || !errors.As(err, &e) || e.Code != code:
		t.Fatalf("error = %v, want code %d", err, code)
	}
	for _, w := range append(want, "sluice: network macvlan1: ") {
		if !strings.Contains(e.Msg, w) {
			t.Errorf("message = %q, want it to contain %q", e.Msg, w)
		}
	}
}

// TestGCCleansALivingPod: the container may be known to nobody, and its namespace still be there.
func TestGCCleansALivingPod(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	pod := cnitest.NewPod(t, "web")
	mustAdd(t, pod, newNetwork(t))
	if len(routing(t, pod)) == 0 {
		t.Fatal("there is no routing, so the test proves nothing")
	}
	stdin := `{"cniVersion": "1.1.0", "name": "macvlan1", "type": "sluice", "cni.dev/valid-attachments": []}`
	wantGlobal(t, execGlobal(t, pod, "GC", stdin), 0)
	wantNothingLeft(t, pod)
}
