// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// modes are the rows of the matrix.
var modes = []mode{
	{"macvlan", "bridge"},
	{"macvlan", "private"},
	{"macvlan", "vepa"},
	{"macvlan", "passthru"},
	{"ipvlan", "l2"},
	{"ipvlan", "l3"},
	{"ipvlan", "l3s"},
}

type mode struct{ kind, name string }

// matrix is a cluster with a network of one mode, whose clients ask VIP:8080.
type matrix struct {
	mode

	cluster *cluster.Cluster
	webs    []*lab.Pod // of the Service, one on each node
	vips    addrs
	asker   *lab.Pod // on node 1 and of no Service; nil in passthru mode
}

// column is a kind of client, or of backend.
type column struct {
	name string
	test func(matrix, *testing.T)
}

// TestMatrix
//
//	client ---+--- node1 (host, asker, web1)           each asks VIP:8080 by TCP and UDP
//	remote -- router    node2 (host, web2)
//	          +--- node3 (host, web3)
//
// The names of its cells, TestMatrix/KIND_MODE/COLUMN/FAMILY/PROTOCOL, are what integration/report makes its table from.
// First checksums are left to the hardware, then they are final on the wire, and judged there.
func TestMatrix(t *testing.T) {
	for _, tool := range []string{"tcpdump", "ethtool"} {
		mustTool(t, tool)
	}
	for _, mode := range modes {
		t.Run(mode.kind+"_"+mode.name, func(t *testing.T) {
			if mode.kind == "ipvlan" {
				testkit.Require(t, testkit.IPVlan)
			}
			m := mustMatrix(t, mode)
			for _, c := range []column{
				{"external client", matrix.external},
				{"local client pod", matrix.local},
				{"the node", matrix.node},
				{"same pod", matrix.samePod},
				{"remote backend", matrix.remote},
				{"checksums", matrix.checksums},
				{"siblings", matrix.siblings},
			} {
				t.Run(c.name, func(t *testing.T) { c.test(m, t) })
			}
		})
	}
}

func mustMatrix(t *testing.T, mode mode) matrix {
	t.Helper()
	nad := mustNAD(t, `"type": "macvlan"`, `"type": "`+mode.kind+`"`, `"mode": "bridge"`, `"mode": "`+mode.name+`"`)
	m := matrix{mode: mode, cluster: mustClusterOn(t, nad, "auto", lab.Options{})}
	m.webs, m.vips = mustWeb(t, m.cluster)
	if mode.name == "l3" || mode.name == "l3s" {
		for _, n := range m.cluster.Nodes() { // which route what their pods send
			mustRun(t, n, "ip route add default via "+m.cluster.Router.Addr.String()+" dev eth1")
			mustRun(t, n, "ip route add default via "+m.cluster.Router.Addr6.String()+" dev eth1")
		}
	}
	if mode.name != "passthru" {
		m.asker = mustPod(t, m.cluster.Node(1), "asker", "asker")
	}
	return m
}

// asker is a client, and the pods that must each answer it.
type asker struct {
	client

	pods []*lab.Pod
}

// cells asks by each family and protocol.
func (m matrix) cells(t *testing.T, askers ...asker) {
	for _, f := range families {
		for _, how := range []struct{ protocol, program string }{{"TCP", "load"}, {"UDP", "udp"}} {
			t.Run(string(f)+"/"+how.protocol, func(t *testing.T) {
				for _, a := range askers {
					ask(t, a.client, f, how.program, m.vips.at(f, "8080"), a.pods)
				}
			})
		}
	}
}

func (m matrix) external(t *testing.T) {
	c := m.cluster
	m.cells(t, asker{hostClient("client", c.Client), m.webs}, asker{hostClient("remote client", c.Remote), m.webs})
}

func (m matrix) local(t *testing.T) {
	if m.asker == nil {
		t.Skip("the kernel attaches one pod in passthru mode: only that can be the client")
	}
	m.cells(t, asker{m.sibling(), m.webs})
}

func (m matrix) node(t *testing.T) {
	m.cells(t, asker{m.host(), m.webs})
	for _, f := range families { // its own hooks answer
		out, err := m.cluster.Node(1).Command(t.Context(), "traffic", "echo", "-n", "10", m.vips[f]).Output()
		mustReport(t, out, err)
	}
}

func (m matrix) samePod(t *testing.T) { m.cells(t, asker{m.backend(), m.webs[:1]}) }

// backend is web1 as a client.
func (m matrix) backend() client { return asClients(m.webs[:1], m.vips)[0] }

// sibling is a pod beside it that is no backend.
func (m matrix) sibling() client {
	return m.onNode1(client{name: "asker", from: m.asker, addr: addrsOf(m.asker.Addr, m.asker.Addr6)})
}

// host is node 1 itself.
func (m matrix) host() client { return m.onNode1(hostClient("host of node1", m.cluster.Node(1).Host)) }

// onNode1 gives a client of node 1 with what the pods there see of it: it is the VIP, if they have the node's MAC.
func (m matrix) onNode1(c client) client {
	if m.kind == "ipvlan" || m.name == "passthru" {
		c.self = m.vips
	}
	return c
}

// remote wants answers from other nodes than the one that balances: the owner for clients on the wire, and its own for a pod.
func (m matrix) remote(t *testing.T) {
	owner := mustOwner(t, m.cluster)
	notOf := func(n *lab.Node) []*lab.Pod {
		return slices.DeleteFunc(slices.Clone(m.webs), func(p *lab.Pod) bool { return p.Node == n })
	}
	m.cells(t, asker{hostClient("client", m.cluster.Client), notOf(owner)}, asker{m.backend(), notOf(m.webs[0].Node)})
}

func (m matrix) checksums(t *testing.T) {
	mustHaveRightChecksums(t, m.cluster, m.askers(), m.vips, m.webs)
}

// askers gives who asks in the cells.
func (m matrix) askers() []client {
	all := append(outside(m.cluster), m.host(), m.backend())
	if m.asker != nil {
		all = append(all, m.sibling())
	}
	return all
}

// siblings tells whether two pods of a node reach each other without the VIP: as their mode has it, and as it has it beside
// a switch that reflects, as vepa mode wants it. Through the VIP they do so in any case.
func (m matrix) siblings(t *testing.T) {
	if m.asker == nil {
		t.Skip("the kernel attaches one pod in passthru mode")
	}
	if m.kind == "ipvlan" {
		m.flags(t)
		return
	}
	mustMeet(t, m.asker, m.webs[0], m.name == "bridge")
	if err := m.cluster.Reflect(); err != nil {
		t.Fatal(err)
	}
	askEach(t, m.askers(), m.vips, m.webs)
	mustMeet(t, m.asker, m.webs[0], m.name != "private")
}

// flags sets what ipvlan has besides its mode, for all pods of a master: private keeps siblings apart, and vepa leaves them to
// the switch, which finds them in l2 only. To clients of the VIP on the pods' own nodes neither makes a difference.
func (m matrix) flags(t *testing.T) {
	mustMeet(t, m.asker, m.webs[0], true)
	for _, flag := range []string{"private", "vepa"} {
		t.Run(flag, func(t *testing.T) {
			for _, p := range m.webs {
				set := p.Command(t.Context(), "ip", "link", "set", "net1", "type", "ipvlan", "mode", m.name, flag)
				if err := set.Run(); err != nil {
					t.Fatal(err)
				}
			}
			askEach(t, []client{m.host(), m.sibling(), m.backend()}, m.vips, m.webs)
			mustMeet(t, m.asker, m.webs[0], false)
		})
	}
	if err := m.cluster.Reflect(); err != nil {
		t.Fatal(err)
	}
	mustMeet(t, m.asker, m.webs[0], m.name == "l2")
}

// mustMeet checks whether a pod reaches its sibling without the VIP, or not.
func mustMeet(t *testing.T, pod, sibling *lab.Pod, want bool) {
	t.Helper()
	addr := addrsOf(sibling.Addr, sibling.Addr6)
	for _, f := range families {
		direct := pod.Command(t.Context(), "traffic", "load", "-n", "1", "-timeout", "1s", addr.at(f, "80"))
		if err := direct.Run(); (err == nil) != want {
			t.Errorf("%s reaches its sibling over %s: %v, want %t", pod.Name, f, err, want)
		}
	}
}

// askEach lets each client ask by both families and protocols, in subtests of its own.
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

// mustNAD is the network of the examples with some of its text replaced, each old followed by its new.
func mustNAD(t *testing.T, oldnew ...string) string {
	t.Helper()
	text, err := os.ReadFile(exampleNAD)
	if err != nil {
		t.Fatal(err)
	}
	for pair := range slices.Chunk(oldnew, 2) {
		old, replacement := []byte(pair[0]), []byte(pair[1])
		if !bytes.Contains(text, old) {
			t.Fatalf("%s does not say %s", exampleNAD, old)
		}
		text = bytes.ReplaceAll(text, old, replacement)
	}
	file := filepath.Join(t.TempDir(), "nad.yaml")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}
