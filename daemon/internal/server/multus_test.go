// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

// underMultus is a runtime that has the real Multus (thin) as its one plugin, without an API server:
//
//	runtime ── multus ─┬─ delegates[0], the cluster's network ── eth0
//	                   └─ delegates[1], as from an annotation ── net1
//
// Both delegates are chains on eth1 that end with ours, unless a test says otherwise.
type underMultus struct {
	state     string // Multus' cniDir
	ipam      string
	delegates []string
}

// newUnderMultus gives a Multus with a delegate for each of the networks' names.
func newUnderMultus(t *testing.T, networks ...string) *underMultus {
	m := &underMultus{state: t.TempDir(), ipam: t.TempDir()}
	for _, name := range networks {
		m.delegates = append(m.delegates, m.chain(name, `, {"type": "sluice", "required": true}`))
	}
	return m
}

// chain gives a chain of macvlan and further elements, in JSON. Networks of one name are one network, so they share
// their addresses.
func (m *underMultus) chain(name, further string) string {
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "plugins": [{"type": "macvlan", "master": "eth1",
		"ipam": {"type": "host-local", "dataDir": %q, "subnet": "192.168.20.0/24"}}%s]}`, name, m.ipam, further)
}

func (m *underMultus) String() string {
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "multus-cni-network", "plugins": [
		{"type": "multus", "cniDir": %q, "delegates": [%s]}]}`, m.state, strings.Join(m.delegates, ", "))
}

// pod makes a pod whose runtime finds Multus. Its first interface is eth0.
func (m *underMultus) pod(t *testing.T, name string) *cnitest.Pod {
	t.Helper()
	dir, err := testkit.Multus()
	if err != nil {
		t.Fatal(err)
	}
	pod := cnitest.NewPod(t, name)
	pod.IfName = "eth0"
	pod.Path(dir)
	return pod
}

// forget makes Multus lose what it knows of an attachment.
func (m *underMultus) forget(t *testing.T, network, container, ifname string) {
	t.Helper()
	if err := os.Remove(filepath.Join(m.state, "results", network+"-"+container+"-"+ifname)); err != nil {
		t.Fatal(err)
	}
}

func mustSpoolHold(t *testing.T, want ...string) {
	t.Helper()
	keys, err := api.SpoolKeys(api.SpoolDir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range keys {
		got = append(got, k.String())
	}
	if !slices.Equal(got, want) {
		t.Fatalf("spooled: %v, want %v", got, want)
	}
}

// TestMultusLifeOfAPod: what Multus makes of each verb, through a restart of the agent, until nothing is left.
func TestMultusLifeOfAPod(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	m := newUnderMultus(t, "cluster", "macvlan1")
	m.delegates[0] = m.chain("cluster", "") // a network without ours
	pod := m.pod(t, "a")
	n := startNode(t, served)
	mustAdd(t, pod, m.String())
	n.wait("a")
	mustSpoolHold(t, "c-a/net1")
	if err := pod.Check(t.Context(), m.String()); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	n.stop()
	n = startNode(t, served)
	n.wait("a")
	if err := pod.Check(t.Context(), m.String()); err != nil {
		t.Errorf("CHECK after a restart of the agent: %v", err)
	}
	if err := api.RemoveSpool(api.SpoolDir, api.Key{ContainerID: "c-a", IfName: "net1"}); err != nil {
		t.Fatal(err)
	}
	if err := pod.Check(t.Context(), m.String()); err == nil || !strings.Contains(err.Error(), "delete the pod") {
		t.Errorf("CHECK of an attachment that is not spooled: %v", err)
	}
	for range 2 {
		if err := pod.Del(t.Context(), m.String()); err != nil {
			t.Fatal(err)
		}
		n.wait()
		wantBare(t, pod)
		mustSpoolHold(t)
	}
}

// TestMultusNetworkWithoutAVersion: Multus v4.3.0 gives ADD a result of CNI 0.1.0, and DEL elements that have lost their
// keys. Ours needs none. But the IPAM's ranges are lost as well, so macvlan, which comes after us, keeps its address.
func TestMultusNetworkWithoutAVersion(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	m := newUnderMultus(t, "cluster", "macvlan1")
	m.delegates[0] = m.chain("cluster", "")
	m.delegates[1] = strings.Replace(m.delegates[1], `"cniVersion": "1.1.0", `, "", 1)
	pod := m.pod(t, "a")
	n := startNode(t, served)
	mustAdd(t, pod, m.String())
	n.wait("a")
	if a := n.set.Snapshot()[0]; len(a.Addresses) != 1 || a.MAC.IsZero() || a.Master != "eth1" {
		t.Errorf("attachment = %+v, want an address, a MAC and the master", a)
	}
	if err := pod.Del(t.Context(), m.String()); err == nil || !strings.Contains(err.Error(), `plugin type="macvlan"`) {
		t.Errorf("DEL = %v, want macvlan's error and none of ours", err)
	}
	n.wait()
	mustSpoolHold(t)
	pod.Do(t, func() error {
		rules, err := netlinksafe.RuleList(netlink.FAMILY_V4)
		if len(rules) != 3 { // local, main and default
			t.Errorf("rules after DEL: %v", rules)
		}
		return err
	})
}

// TestMultusDelegateFails: Multus takes back all delegates when one fails.
func TestMultusDelegateFails(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	m := newUnderMultus(t, "cluster", "macvlan1")
	m.delegates = append(m.delegates, `{"cniVersion": "1.1.0", "name": "bad", "type": "macvlan", "master": "absent"}`)
	pod := m.pod(t, "a")
	n := startNode(t, served)
	if _, err := pod.Add(t.Context(), m.String()); err == nil || !strings.Contains(err.Error(), `network "bad"`) {
		t.Fatalf("ADD = %v, want the third delegate's error", err)
	}
	n.wait()
	wantBare(t, pod)
	mustSpoolHold(t)
}

// TestMultusKeepsOurWords: Multus replaces the code of an error by 999, so its text must do.
func TestMultusKeepsOurWords(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	m := newUnderMultus(t, "cluster", "macvlan1")
	m.delegates[0] = m.chain("cluster", "")
	pod := m.pod(t, "a")
	_, err := pod.Add(t.Context(), m.String()) // no agent
	var e *types.Error
	if !errors.As(err, &e) {
		t.Fatalf("ADD = %v, want a CNI error", err)
	}
	for _, want := range []string{"pod default/a, interface net1: ", "see that sluiced runs on this node"} {
		if !strings.Contains(e.Error(), want) {
			t.Errorf("ADD = %v, want it to contain %q", e, want)
		}
	}
	t.Logf("code %d: %v", e.Code, e)
	wantBare(t, pod)
	mustSpoolHold(t)
}

// TestMultusAsksTheFirstDelegateAlone: STATUS and GC reach ours in the cluster's network, and in no other.
func TestMultusAsksTheFirstDelegateAlone(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	first := newUnderMultus(t, "macvlan1")
	first.delegates = append(first.delegates, first.chain("other", ""))
	second := newUnderMultus(t, "other", "macvlan1")
	second.delegates[0] = second.chain("other", "")
	podOf := func(m *underMultus, name string) *cnitest.Pod {
		pod := m.pod(t, name)
		mustAdd(t, pod, m.String())
		t.Cleanup(func() {
			if err := pod.Del(context.WithoutCancel(t.Context()), m.String()); err != nil {
				t.Error(err)
			}
		})
		return pod
	}
	n := startNode(t, served)
	one, two := podOf(first, "a"), podOf(second, "b")
	n.wait("a", "b")

	n.stop()
	var e *types.Error
	if err := one.Status(t.Context(), first.String()); !errors.As(err, &e) || e.Code != 50 {
		t.Errorf("STATUS with ours first = %v, want code 50", err)
	}
	if err := two.Status(t.Context(), second.String()); err != nil {
		t.Errorf("STATUS with ours second = %v, want that nobody asks", err)
	}

	second.forget(t, "macvlan1", "c-b", "net1")
	if err := gc(t, two, second.String()); err != nil {
		t.Error(err)
	}
	mustSpoolHold(t, "c-a/eth0", "c-b/net1")
}

// TestMultusGCOfASharedName: a cluster's network and one from an annotation may have the same name. Multus lists the
// attachments of all networks, so GC takes from neither what the other one has.
func TestMultusGCOfASharedName(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	m := newUnderMultus(t, "macvlan1", "macvlan1")
	pod := m.pod(t, "a")
	n := startNode(t, served)
	mustAdd(t, pod, m.String())
	n.wait("a", "a")
	if err := gc(t, pod, m.String()); err != nil {
		t.Fatal(err)
	}
	mustSpoolHold(t, "c-a/eth0", "c-a/net1")
	m.forget(t, "macvlan1", "c-a", "net1")
	if err := gc(t, pod, m.String()); err != nil {
		t.Fatal(err)
	}
	n.wait("a")
	mustSpoolHold(t, "c-a/eth0")
	if err := pod.Del(t.Context(), m.String()); err != nil {
		t.Fatal(err)
	}
	n.wait()
	wantBare(t, pod)
}

// TestMultusGCOfANameSharedByRuntimes: what another runtime has attached under the name is on no list of Multus'. CNI's
// remedy for that is disableGC.
func TestMultusGCOfANameSharedByRuntimes(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	m := newUnderMultus(t, "macvlan1")
	under, beside := m.pod(t, "a"), cnitest.NewPod(t, "b")
	n := startNode(t, served)
	mustAdd(t, under, m.String())
	alone := m.delegates[0]
	mustAdd(t, beside, alone)
	n.wait("a", "b")
	m.delegates[0] = strings.Replace(alone, `"plugins"`, `"disableGC": true, "plugins"`, 1)
	if err := gc(t, under, m.String()); err != nil {
		t.Fatal(err)
	}
	mustSpoolHold(t, "c-a/eth0", "c-b/net1")
	m.delegates[0] = alone
	if err := gc(t, under, m.String()); err != nil {
		t.Fatal(err)
	}
	n.wait("a")
	mustSpoolHold(t, "c-a/eth0")
}

// gc runs GC as a runtime that knows of this pod alone. Multus ignores that list and makes its own.
func gc(t *testing.T, pod *cnitest.Pod, config string) error {
	t.Helper()
	return pod.GC(t.Context(), config, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{
		{ContainerID: pod.ContainerID, IfName: pod.IfName},
	}})
}
