// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// TestServiceOnEveryKindOfMaster
//
//	client ---+--- node1 (host, asker, web1)      the master is eth1.100 over eth1, or bond0 over eth1 and eth2
//	remote -- router    node2 (web2)
//
// Each asks VIP:8080 by TCP and UDP, first with checksums left to the hardware, then with final ones on the wire.
func TestServiceOnEveryKindOfMaster(t *testing.T) {
	for _, tool := range []string{"tcpdump", "ethtool"} {
		mustTool(t, tool)
	}
	for master, needs := range map[string]testkit.Feature{lab.VLAN: testkit.VLAN, lab.Bond: testkit.Bond} {
		t.Run(master, func(t *testing.T) {
			testkit.Require(t, needs)
			c := mustClusterAbove(t, master)
			webs, vips := mustWeb(t, c)
			asker := mustPod(t, c.Node(1), "asker", "asker")
			askers := append(outside(c), hostClient("host of node1", c.Node(1).Host), asClients(webs, vips)[1],
				client{name: "pod on node1", from: asker, addr: addrsOf(asker.Addr, asker.Addr6)})
			askEach(t, askers, vips, webs)
			mustHaveRightChecksums(t, c, askers, vips, webs)
		})
	}
}

// mustClusterAbove runs Sluice on two nodes whose master is not eth1.
func mustClusterAbove(t *testing.T, master string) *cluster.Cluster {
	t.Helper()
	nad := mustNAD(t, `"master": "eth1"`, `"master": "`+master+`"`,
		`"type": "sluice"`, `"type": "sluice", "segment": "eth1"`) // as the nodes' facts have it
	return mustClusterOn(t, nad, "auto", lab.Options{Nodes: 2, Master: master})
}

// A bond changes over to its other card: when the active one's port fails, and when somebody tells it to. Then the switch
// still takes the old port for the right one, and where the node has no address of its own on the bond, nobody but Sluice
// says otherwise.
func TestConnectionsOutliveTheChangeOverOfABond(t *testing.T) {
	testkit.Require(t, testkit.Bond)
	c := mustClusterAbove(t, lab.Bond)
	pods, vips := mustWeb(t, c)
	owner := mustOwner(t, c)
	client, pod := hostClient("client", c.Client), asClients(pods, vips)[0]
	holders := []holder{
		mustHold(t, client, vips.at("IPv4", "8080"), patient...), mustHold(t, pod, vips.at("IPv6", "8080"), patient...),
	}
	mustConnect(t, client, heldConnections)
	mustConnect(t, pod, heldConnections)
	for _, n := range c.Nodes() {
		mustRun(t, c.Switch, "ip link set "+n.Name+" down")
		mustUse(t, n, "eth2")
		mustAnswerAgain(t, c, vips)
		mustRun(t, c.Switch, "ip link set "+n.Name+" up")
	}
	for _, h := range holders {
		h.release(t)
	}

	mustRun(t, owner, "ip addr flush dev bond0")
	silence := owner.Command(t.Context(), "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/bond0/disable_ipv6")
	if err := silence.Run(); err != nil {
		t.Fatal(err)
	}
	mustRun(t, owner, "ip link set bond0 type bond active_slave eth1")
	mustBeBehind(t, c, owner, owner.Name)
	for _, f := range families {
		ask(t, client, f, "load", vips.at(f, "8080"), pods)
	}
}

// mustUse waits until a node's bond uses a card.
func mustUse(t *testing.T, n *lab.Node, card string) {
	t.Helper()
	err := lab.Until(t.Context(), time.Minute, n.Name+" uses "+card, func(ctx context.Context) error {
		out, err := n.Command(ctx, "cat", "/sys/class/net/bond0/bonding/active_slave").Output()
		if err == nil && strings.TrimSpace(string(out)) != card {
			err = fmt.Errorf("it uses %s", out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// mustBeBehind waits until the switch knows a node's master behind one of its ports: not so long that the announcement of every
// minute would do.
func mustBeBehind(t *testing.T, c *cluster.Cluster, n *lab.Node, port string) {
	t.Helper()
	master, err := n.Command(t.Context(), "cat", "/sys/class/net/bond0/address").Output()
	if err != nil {
		t.Fatal(err)
	}
	mac := strings.TrimSpace(string(master))
	err = lab.Until(t.Context(), 20*time.Second, mac+" is behind "+port, func(ctx context.Context) error {
		out, err := c.Switch.Command(ctx, "bridge", "fdb", "show", "brport", port).Output()
		if known := slices.Contains(strings.Fields(string(out)), mac); err == nil && !known {
			err = fmt.Errorf("behind it are\n%s", out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// joiningNAD is a network whose master's driver joins segments for good. A bond without cards says that it does.
const joiningNAD = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: joining, namespace: default}
spec:
  config: |
    { "cniVersion": "1.0.0", "name": "joining", "plugins": [
      { "type": "macvlan", "master": "bond9", "mode": "bridge",
        "ipam": {"type": "host-local", "subnet": "192.168.90.0/24", "rangeEnd": "192.168.90.200"} },
      { "type": "sluice", "segment": "eth1", "vips": ["192.168.90.240"] } ] }
`

// The issue names the remedy, and nobody has to tell the agent that it was followed. Other masters never notice.
func TestAMasterThatJoinsSegmentsIsRefusedUntilItStops(t *testing.T) {
	testkit.Require(t, testkit.Bond)
	mustTool(t, "ethtool")
	c := mustCluster(t, "auto", lab.Options{Nodes: 1})
	n := c.Node(1)
	pods, vips := mustWeb(t, c)
	mustRun(t, n, "ip link add bond9 type bond mode active-backup")
	mustApply(t, c, "joining.yaml", joiningNAD)
	for range 2 {
		mustRun(t, n, "ethtool -K bond9 lro on")
		mustIssues(t, n, "NetworkAttachmentDefinition default/joining", "MasterOffload", "ethtool -K bond9 lro off")
		mustRun(t, n, "ethtool -K bond9 lro off")
		mustIssues(t, n, "Interface bond9", "MasterDown") // it is a master, so that matters
	}
	ask(t, hostClient("client", c.Client), "IPv4", "load", vips.at("IPv4", "8080"), pods)
}
