// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// TestRealMultus runs the life of pods that the real Multus attaches to a default network and to that of the examples:
//
//	runtime ── multus ─┬─ ptp, host-local ─────────── eth0 ── node
//	                   └─ macvlan, host-local, sluice ── net1 ── eth1 ── switch
func TestRealMultus(t *testing.T) {
	testkit.Require(t, testkit.Root)
	multus, err := testkit.Multus()
	if err != nil {
		t.Fatal(err)
	}
	ptp := t.TempDir()
	if err := testkit.Build(ptp, "github.com/containernetworking/plugins/plugins/main/ptp"); err != nil {
		t.Fatal(err)
	}
	c := mustCluster(t, "auto", lab.Options{Multus: true, Path: []string{multus, ptp}})
	pods, vips := mustWeb(t, c)
	for _, p := range pods {
		wantNetworkStatus(t, p)
	}
	wantServing(t, c, vips, pods)

	c.Agent(c.Node(1)).Kill()
	mustStartAgent(t, c, c.Node(1))
	mustServed(t, c, "default/web", pods...)
	wantServing(t, c, vips, pods)

	mustDetach(t, pods[0])
	mustBackendState(t, c, c.Node(1), pods[0], "unattached")
	if err := c.Agent(c.Node(2)).Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustDetach(t, pods[1])
	mustStartAgent(t, c, c.Node(2))
	mustBackendState(t, c, c.Node(2), pods[1], "unattached")
}

// wantServing checks that the pods are as ADD has left them, and that clients on the segment and beyond reach each.
func wantServing(t *testing.T, c *cluster.Cluster, vips addrs, pods []*lab.Pod) {
	t.Helper()
	for _, p := range pods {
		if err := p.Check(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for _, f := range families {
		ask(t, hostClient("external client", c.Client), f, "load", vips.at(f, "8080"), pods)
		ask(t, hostClient("remote client", c.Remote), f, "udp", vips.at(f, "8080"), pods)
	}
}

// wantNetworkStatus checks that the pod's annotation has one entry for each of its interfaces, and tells of each what the
// kernel does.
func wantNetworkStatus(t *testing.T, p *lab.Pod) {
	t.Helper()
	got, err := p.NetworkStatus()
	if err != nil {
		t.Fatal(err)
	}
	var want []nadv1.NetworkStatus
	for _, link := range mustLinks(t, p) {
		want = append(want, nadv1.NetworkStatus{
			Name:      map[string]string{"eth0": "cluster", "net1": "default/macvlan1"}[link.Name],
			Interface: link.Name, IPs: link.addrs(), Mac: link.MAC, Default: link.Name == "eth0",
		})
	}
	for i := range got {
		got[i].Gateway, got[i].DNS, got[i].Mtu = nil, nadv1.DNS{}, 0 // of no concern to us
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("network-status of %s by Multus (-want +got):\n%s", p, diff)
	}
}

// mustDetach runs DEL twice, and checks that nothing is left of the pod's attachments: no interface, no rule in the pod,
// and no file on the node.
func mustDetach(t *testing.T, p *lab.Pod) {
	t.Helper()
	for range 2 {
		if err := p.Detach(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, link := range mustLinks(t, p) {
			t.Errorf("interface of %s after DEL: %v", p, link)
		}
		for family, own := range map[string]int{"-4": 3, "-6": 2} { // local, main, and for IPv4 default
			rules, err := p.Command(t.Context(), "ip", family, "rule").Output()
			if err != nil || strings.Count(string(rules), "\n") != own {
				t.Errorf("rules of %s after DEL: %v\n%s", p, err, rules)
			}
		}
		left, err := os.ReadDir(p.Node.Root() + api.SpoolDir)
		if err != nil || len(left) != 0 {
			t.Errorf("the spool of %s after DEL: %v, %v", p.Node.Name, left, err)
		}
	}
}

// link is an interface as ip(8) tells it.
type link struct {
	Name  string `json:"ifname"`
	MAC   string `json:"address"`
	Addrs []struct {
		Local string `json:"local"`
		Scope string `json:"scope"`
	} `json:"addr_info"`
}

func (l link) addrs() (out []string) {
	for _, a := range l.Addrs {
		if a.Scope == "global" {
			out = append(out, a.Local)
		}
	}
	return out
}

// mustLinks gives a pod's interfaces without the loopback one.
func mustLinks(t *testing.T, p *lab.Pod) []link {
	t.Helper()
	out, err := p.Command(t.Context(), "ip", "-j", "addr").Output()
	if err != nil {
		t.Fatal(err)
	}
	var links []link
	if err := json.Unmarshal(out, &links); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(links, func(l link) bool { return l.Name == "lo" })
}
