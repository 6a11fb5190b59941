// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/sluice-lb/sluice/integration/lab"
)

// TestEveryModeOfMacvlan
//
//	client ---+--- node1 (host, asker, web1)           each asks VIP:8080 by TCP and UDP, first with checksums left to
//	remote -- router    node2 (host, asker, web2)      the hardware, then with final ones on the wire
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
		})
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
