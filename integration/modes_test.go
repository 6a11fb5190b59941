// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sluice-lb/sluice/integration/lab"
)

// TestEveryModeOfMacvlan
//
//	client ---+--- node1 (host, asker, web1)           each asks VIP:8080 by TCP and UDP, first with checksums left to
//	remote -- router    node2 (host, asker, web2)      the hardware, then with final ones on the wire
//
// Then the switch reflects, as vepa mode wants it: replies must not depend on that, and private pods not meet there.
//
// In passthru mode a node has one pod, and its host gets no unicast: no asker, no host.
func TestEveryModeOfMacvlan(t *testing.T) {
	for _, tool := range []string{"tcpdump", "ethtool"} {
		mustTool(t, tool)
	}
	for _, mode := range []string{"bridge", "private", "vepa", "passthru"} {
		t.Run(mode, func(t *testing.T) {
			c := mustClusterOn(t, mustNAD(t, mode), "auto", lab.Options{})
			webs, vips := mustWeb(t, c)
			askers := append(outside(c), asClients(webs, vips)...)
			if mode != "passthru" {
				askers = clients(t, c, webs, vips)
			}
			askEach(t, askers, vips, webs)
			mustDoChecksumsInSoftware(t, c, webs...)
			wire := mustCapture(t, c, "ip or ip6")
			askEach(t, askers, vips, webs)
			wire.judge(t, 1000)
			if mode == "passthru" {
				mustNotBeClient(t, c.Node(1), vips)
				return
			}
			mustMeet(t, askers, webs, mode == "bridge")
			if err := c.Reflect(); err != nil {
				t.Fatal(err)
			}
			askEach(t, askers[2:4], vips, webs) // what runs on node 1
			mustMeet(t, askers, webs, mode != "private")
		})
	}
}

// mustMeet checks whether a pod reaches its sibling on node 1 without the VIP, or not.
func mustMeet(t *testing.T, askers []client, webs []*lab.Pod, want bool) {
	t.Helper()
	sibling := askers[slices.IndexFunc(askers, func(c client) bool { return c.name == "pod on node1" })]
	addr := addrsOf(webs[0].Addr, webs[0].Addr6)
	for _, f := range families {
		direct := sibling.from.Command(t.Context(), "traffic", "load", "-n", "1", "-timeout", "1s", addr.at(f, "80"))
		if err := direct.Run(); (err == nil) != want {
			t.Errorf("%s reaches its sibling over %s: %v, want %t", sibling.name, f, err, want)
		}
	}
}

// mustNotBeClient states a limit that the README names: the answers to the host's ARP requests are the pod's.
func mustNotBeClient(t *testing.T, n *lab.Node, vips addrs) {
	t.Helper()
	for _, f := range families {
		if n.Command(t.Context(), "traffic", "load", "-n", "1", "-timeout", "1s", vips.at(f, "8080")).Run() == nil {
			t.Errorf("%s is a client over %s beside a pod in passthru mode: the README says that it cannot be", n.Name, f)
		}
	}
}

func askEach(t *testing.T, askers []client, vips addrs, pods []*lab.Pod) {
	t.Helper()
	for _, client := range askers {
		for _, f := range families {
			t.Run(client.name+"/"+string(f), func(t *testing.T) {
				ask(t, client, f, "load", vips.at(f, "8080"), pods)
				ask(t, client, f, "udp", vips.at(f, "8080"), pods)
			})
		}
	}
}

// mustNAD is the network of the examples in another mode.
func mustNAD(t *testing.T, mode string) string {
	t.Helper()
	const bridge = `"mode": "bridge"`
	text, err := os.ReadFile(exampleNAD)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(bridge)) {
		t.Fatalf("%s does not say %s", exampleNAD, bridge)
	}
	file := filepath.Join(t.TempDir(), "nad.yaml")
	if err := os.WriteFile(file, bytes.Replace(text, []byte(bridge), []byte(`"mode": "`+mode+`"`), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}
