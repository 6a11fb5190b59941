// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/ether"
	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

func TestAddSpoolsAndAnnouncesTheAttachment(t *testing.T) {
	testkit.Require(t, testkit.Root)
	master := cnitest.Master(t, "eth1")
	agent := startAgent(t)
	pod := cnitest.NewPod(t, "web")
	result, err := current.NewResultFromResult(mustAdd(t, pod, newDualStack(t)))
	if err != nil {
		t.Fatal(err)
	}

	inode, err := namespaceInode(pod.NS.Path())
	if err != nil {
		t.Fatal(err)
	}
	want := api.Attachment{
		ContainerID: pod.ContainerID, IfName: "net1", Network: "macvlan1",
		Pod:   api.Pod{Namespace: "default", Name: "web", UID: "uid-web"},
		Netns: pod.NS.Path(), NetnsInode: inode, Kind: "macvlan", Mode: "bridge",
		MAC:       mustLinkMAC(t, pod),
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.20.20/24"), netip.MustParsePrefix("fd00:20::20/64")},
		Gateways:  []netip.Addr{netip.MustParseAddr("192.168.20.1"), netip.MustParseAddr("fd00:20::1")},
		Master:    "eth1", MasterIndex: master.Attrs().Index,
	}
	if diff := cmp.Diff(want, mustSpooled(t, pod), equateAddrs); diff != "" {
		t.Errorf("spooled (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]api.Attachment{"c-web/net1": want}, agent.holds(), equateAddrs); diff != "" {
		t.Errorf("held by the agent (-want +got):\n%s", diff)
	}
	if len(result.Interfaces) != 1 || result.Interfaces[0].Mac != want.MAC.String() || len(result.IPs) != 2 {
		t.Errorf("result = %+v, want macvlan's one interface and two addresses", result)
	}
}

func mustLinkMAC(t *testing.T, pod *cnitest.Pod) ether.MAC {
	t.Helper()
	var mac ether.MAC
	pod.Do(t, func() error {
		link, err := netlinksafe.LinkByName(pod.IfName)
		if err != nil {
			return err
		}
		mac, err = ether.FromSlice(link.Attrs().HardwareAddr)
		return err
	})
	return mac
}

func TestAddTwiceIsAddOnce(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	startAgent(t)
	pod := cnitest.NewPod(t, "web")
	n := newNetwork(t)
	result := mustAdd(t, pod, n)
	first := mustSpooled(t, pod)
	before := routing(t, pod)

	prev, err := json.Marshal(result)
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"CNI_ARGS": cniArgs("web")}
	if _, err := pod.Exec(t.Context(), "ADD", n.stdin(string(prev)), env); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, mustSpooled(t, pod), equateAddrs); diff != "" {
		t.Errorf("spooled (-first +second):\n%s", diff)
	}
	if diff := cmp.Diff(before, routing(t, pod)); diff != "" {
		t.Errorf("routing (-first +second):\n%s", diff)
	}
}

func cniArgs(pod string) string {
	return "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + pod + ";K8S_POD_UID=uid-" + pod
}

// TestAddPassesTheResultThrough holds for every version of CNI, the result without a version included.
func TestAddPassesTheResultThrough(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	pod := cnitest.NewPod(t, "web")
	mustAdd(t, pod, newNetwork(t))
	const (
		modern = `{"cniVersion": %q, "interfaces": [{"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"}],
			"ips": [{"address": "192.168.20.20/24", "gateway": "192.168.20.1", "interface": 0}],
			"routes": [{"dst": "10.0.0.0/8", "gw": "192.168.20.2"}], "dns": {"nameservers": ["192.168.20.3"]}}`
		middle = `{"cniVersion": %q, "interfaces": [{"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"}],
			"ips": [{"version": "4", "address": "192.168.20.20/24", "gateway": "192.168.20.1", "interface": 0}], "dns": {}}`
		legacy = `{"cniVersion": %q, "ip4": {"ip": "192.168.20.20/24", "gateway": "192.168.20.1"}, "dns": {}}`
	)
	tests := map[string]string{
		"1.1.0": modern, "1.0.0": modern, "0.4.0": middle, "0.3.1": middle, "0.3.0": middle, "0.2.0": legacy, "0.1.0": legacy,
		"": legacy, // as Multus up to v4.3.0 sends it for a NAD without a version
	}
	for version, form := range tests {
		t.Run("version "+version, func(t *testing.T) {
			n := newNetwork(t)
			n.version = version
			prev := fmt.Sprintf(form, version)
			out, err := pod.Exec(t.Context(), "ADD", n.stdin(prev), nil)
			if err != nil {
				t.Fatal(err)
			}
			if version == "" { // the printed result says which version it is
				prev = fmt.Sprintf(form, "0.1.0")
			}
			if diff := cmp.Diff(mustDecode(t, prev), mustDecode(t, out)); diff != "" {
				t.Errorf("result (-prevResult +printed):\n%s", diff)
			}
		})
	}
}

func mustDecode(t *testing.T, text string) (v map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return v
}

func TestAddSurvivesAMissingAgent(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	for name, spoil := range map[string]func(*testing.T){
		"never started": func(*testing.T) {},
		"killed": func(t *testing.T) {
			if err := os.MkdirAll(api.RunDir, 0o700); err != nil {
				t.Fatal(err)
			}
			listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: api.Socket, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			listener.SetUnlinkOnClose(false)
			listener.Close()
			t.Cleanup(func() { os.Remove(api.Socket) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			spoil(t)
			pod := cnitest.NewPod(t, "web")
			n := newNetwork(t)
			mustAdd(t, pod, n)
			if got := mustSpooled(t, pod).Pod.Name; got != "web" {
				t.Errorf("spooled pod = %q", got)
			}
			if err := pod.Del(t.Context(), n.String()); err != nil {
				t.Fatal(err)
			}

			n.sluice += `, "required": true`
			_, err := pod.Add(t.Context(), n.String())
			wantRefusal(t, err, 11, "agent not reachable", "see that sluiced runs on this node")
			wantNothingLeft(t, pod)
		})
	}
}

func TestAddPassesOnTheAgentsRefusal(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	agent := startAgent(t)
	pod := cnitest.NewPod(t, "web")
	agent.set(func(a *agentDouble) {
		a.refusal = &api.Error{Code: 11, Msg: "the datapath is not ready", Details: "no BPF"}
	})
	_, err := pod.Add(t.Context(), newNetwork(t).String())
	wantRefusal(t, err, 11, "the agent refuses: the datapath is not ready: no BPF", "see the log of sluiced")
	wantNothingLeft(t, pod)
}

func TestAnnounceGivesUpOnAHangingAgent(t *testing.T) {
	testkit.Require(t, testkit.Root)
	agent := startAgent(t)
	agent.set(func(a *agentDouble) { a.hang = true })
	p := &plugin{socket: api.Socket, log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s := newSubject(&skel.CmdArgs{IfName: "net1", Args: cniArgs("web")})
	err := p.announce(ctx, s, api.Attachment{}, false)
	wantRefusal(t, err, 11, "wait for the agent's answer: context deadline exceeded", "see the log of sluiced")
}

// TestAddTakesAnAttachmentWithoutAddresses: an interface without IPAM may carry a client.
func TestAddTakesAnAttachmentWithoutAddresses(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	pod := cnitest.NewPod(t, "l2")
	n := newNetwork(t)
	n.ipam = `{}`
	mustAdd(t, pod, n)
	if a := mustSpooled(t, pod); len(a.Addresses) != 0 || a.MAC.IsZero() {
		t.Errorf("spooled = %+v", a)
	}
	if err := pod.Check(t.Context(), n.String()); err == nil {
		t.Error("CHECK succeeds without an agent")
	}
	if err := pod.Del(t.Context(), n.String()); err != nil {
		t.Fatal(err)
	}
	wantNothingLeft(t, pod)
}

// routing gives the pod's reply routing as text.
func routing(t *testing.T, pod *cnitest.Pod) []string {
	t.Helper()
	var out []string
	pod.Do(t, func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			rules, err := netlinksafe.RuleList(family)
			if err != nil {
				return err
			}
			for _, r := range rules {
				if isReplyRule(r) {
					out = append(out, r.String())
				}
			}
			routes, err := tableRoutes(family, func(table int) bool { return table >= tableBase })
			if err != nil {
				return err
			}
			for _, r := range routes {
				out = append(out, fmt.Sprintf("%s via %s dev %d table %d", r.Dst, r.Gw, r.LinkIndex, r.Table))
			}
		}
		return nil
	})
	return out
}
