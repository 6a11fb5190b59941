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
			webs, vip := mustWeb(t, c)
			askers := append(outside(c), asClients(webs, vip)...)
			if mode != "passthru" {
				askers = clients(t, c, webs, vip)
			}
			askEach(t, askers, vip, webs)
			mustDoChecksumsInSoftware(t, c, webs...)
			wire := mustCapture(t, c, "ip")
			askEach(t, askers, vip, webs)
			wire.judge(t, 1000)
			if mode == "passthru" {
				mustNotBeClient(t, c.Node(1), vip)
				return
			}
			mustMeet(t, askers, webs, mode == "bridge")
			if err := c.Reflect(); err != nil {
				t.Fatal(err)
			}
			askEach(t, askers[2:4], vip, webs) // what runs on node 1
			mustMeet(t, askers, webs, mode != "private")
		})
	}
}

// mustMeet checks whether a pod reaches its sibling on node 1 without the VIP, or not.
func mustMeet(t *testing.T, askers []client, webs []*lab.Pod, want bool) {
	t.Helper()
	sibling := askers[slices.IndexFunc(askers, func(c client) bool { return c.name == "pod on node1" })]
	direct := sibling.from.Command(t.Context(), "traffic", "load", "-n", "1", "-timeout", "1s", webs[0].Addr.String()+":80")
	if err := direct.Run(); (err == nil) != want {
		t.Errorf("%s reaches its sibling: %v, want %t", sibling.name, err, want)
	}
}

// mustNotBeClient states a limit that the README names: the answers to the host's ARP requests are the pod's.
func mustNotBeClient(t *testing.T, n *lab.Node, vip string) {
	t.Helper()
	if err := n.Command(t.Context(), "traffic", "load", "-n", "1", "-timeout", "1s", vip+":8080").Run(); err == nil {
		t.Errorf("%s is a client beside a pod in passthru mode: the README says that it cannot be", n.Name)
	}
}

func askEach(t *testing.T, askers []client, vip string, pods []*lab.Pod) {
	t.Helper()
	for _, client := range askers {
		t.Run(client.name, func(t *testing.T) {
			ask(t, client, "load", vip+":8080", pods)
			ask(t, client, "udp", vip+":8080", pods)
		})
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
