// SPDX-License-Identifier: Apache-2.0

// Package integration owns the tests that run the real binaries on real packets, in the lab's nodes. It must not import what
// it tests.
package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// programs is the directory with the binaries that all tests of this run use.
var programs string

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run()) // every test skips
	}
	os.Exit(cluster.WithPrograms(func(dir string) int {
		programs = dir
		return m.Run()
	}))
}

// webService has three ports, so that what is per port and what is per address cannot be mistaken for one another.
const webService = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, annotations: {sluice-lb.io/networks: macvlan1}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  loadBalancerClass: sluice-lb.io/sluice
  selector: {app: web}
  ports:
  - {name: http, protocol: TCP, port: 8080, targetPort: 80}
  - {name: same, protocol: TCP, port: 80, targetPort: 80}
  - {name: datagrams, protocol: UDP, port: 8080, targetPort: 80}
`

// exampleNAD is the network of most tests.
const exampleNAD = "../netconf-examples/nad-macvlan1-dual-stack.yaml"

// mustCluster runs Sluice on three nodes, with the network of the examples and the Service web. attach is "tcx" or "clsact".
func mustCluster(t *testing.T, attach string, options lab.Options) *cluster.Cluster {
	t.Helper()
	return mustClusterOn(t, exampleNAD, attach, options)
}

// mustClusterOn is mustCluster with another network macvlan1, from a file.
func mustClusterOn(t *testing.T, nad, attach string, options lab.Options) *cluster.Cluster {
	t.Helper()
	c := mustBareCluster(t, cluster.Options{
		Options:   options,
		Attach:    attach,
		Manifests: []string{nad, mustFacts(t, options.Nodes)},
	})
	mustApply(t, c, "web.yaml", webService)
	return c
}

// mustFacts is the example of node facts, of the first nodes only. 0 means all.
func mustFacts(t *testing.T, nodes int) string {
	t.Helper()
	const example = "../netconf-examples/node-facts.yaml"
	if nodes == 0 {
		return example
	}
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	const end = "---\n"
	leases := strings.Join(strings.Split(string(text), end)[:nodes], end)
	file := filepath.Join(t.TempDir(), filepath.Base(example))
	if err := os.WriteFile(file, []byte(leases), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// mustBareCluster runs Sluice with these manifests only, and looks at the end whether it ran well.
func mustBareCluster(t *testing.T, options cluster.Options) *cluster.Cluster {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.BPF)
	if options.Attach == "tcx" {
		testkit.Require(t, testkit.TCX)
	}
	options.Path = append(slices.Clone(options.Path), programs) // a test's own come first
	c, err := cluster.New(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		logs := c.Logs()
		if strings.Contains(logs, "DATA RACE") {
			t.Error("a daemon has a data race")
		}
		if t.Failed() {
			t.Log(logs)
			t.Log(allCounters(c))
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// eachAttachment runs a test with both ways of attaching programs.
func eachAttachment(t *testing.T, test func(t *testing.T, attach string)) {
	for _, attach := range []string{"tcx", "clsact"} {
		t.Run(attach, func(t *testing.T) { test(t, attach) })
	}
}

func mustApply(t *testing.T, c *cluster.Cluster, name, manifest string) {
	t.Helper()
	if _, err := c.Apply(name, []byte(manifest)); err != nil {
		t.Fatal(err)
	}
}

// mustPod adds a pod on the network of the examples with a server on port 80 that is labelled app=APP, and reports it ready.
func mustPod(t *testing.T, n *lab.Node, name, app string) *lab.Pod {
	t.Helper()
	return mustPodOn(t, n, "macvlan1", name, app)
}

// mustPodOn is mustPod for another network.
func mustPodOn(t *testing.T, n *lab.Node, network, name, app string) *lab.Pod {
	t.Helper()
	p, err := n.AddPod(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"app": app},
		Annotations: map[string]string{"k8s.v1.cni.cncf.io/networks": network},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Start("traffic", "serve", "-name", name); err != nil {
		t.Fatal(err)
	}
	err = lab.Until(t.Context(), time.Minute, name+" listens", func(ctx context.Context) error {
		return p.Command(ctx, "traffic", "load", "-n", "1", "127.0.0.1:80").Run()
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SetReady(true); err != nil {
		t.Fatal(err)
	}
	return p
}

// mustWeb adds pods web1, web2, ... of the Service web, one on each node, and gives them with the VIPs that serve them.
func mustWeb(t *testing.T, c *cluster.Cluster) (pods []*lab.Pod, vips addrs) {
	t.Helper()
	for i, n := range c.Nodes() {
		pods = append(pods, mustPod(t, n, fmt.Sprintf("web%d", i+1), "web"))
	}
	return pods, mustServed(t, c, "default/web", pods...)
}

// mustServed waits until all nodes send a Service's new connections to exactly these pods, by both families, and gives its
// VIPs.
func mustServed(t *testing.T, c *cluster.Cluster, service string, pods ...*lab.Pod) addrs {
	t.Helper()
	return mustServedOn(t, c, len(families), service, pods...)
}

// mustServedOn is mustServed for a Service that has another number of VIPs than one of each family.
func mustServedOn(t *testing.T, c *cluster.Cluster, vips int, service string, pods ...*lab.Pod) addrs {
	t.Helper()
	names := []string{}
	for _, p := range pods {
		names = append(names, p.String())
	}
	ports, err := c.Served(t.Context(), service, vips, names...)
	if err != nil {
		t.Fatal(err)
	}
	found := addrs{}
	for _, port := range ports {
		found[familyOf(port.VIP)] = port.VIP.String()
	}
	return found
}

// family is an IP family, as it names subtests.
type family string

var families = []family{"IPv4", "IPv6"}

func familyOf(addr netip.Addr) family {
	if addr.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// addrs is an address of each family: what a station is known by.
type addrs map[family]string

func addrsOf(ip4, ip6 netip.Addr) addrs { return addrs{"IPv4": ip4.String(), "IPv6": ip6.String()} }

// at gives an address with a port, as programs take it.
func (a addrs) at(f family, port string) string { return net.JoinHostPort(a[f], port) }

// eachFamily runs a test for both families.
func eachFamily(t *testing.T, test func(t *testing.T, f family)) {
	t.Helper()
	for _, f := range families {
		t.Run(string(f), func(t *testing.T) { test(t, f) })
	}
}

// runner is a host or a pod.
type runner interface {
	Command(ctx context.Context, name string, args ...string) *lab.Cmd
}

// client is where traffic comes from, and whom the pods must see.
type client struct {
	name string
	from runner
	addr addrs
	// self is what a pod sees that asks itself, and an ipvlan that its own node's clients ask: the VIP. Nil for others.
	self addrs
}

func hostClient(name string, h *lab.Host) client {
	return client{name: name, from: h, addr: addrsOf(h.Addr, h.Addr6)}
}

// clients gives every kind of client: on the wire, behind the router, each node, a pod that is no backend on each node, and
// a backend on each node.
func clients(t *testing.T, c *cluster.Cluster, backends []*lab.Pod, vips addrs) []client {
	t.Helper()
	all := outside(c)
	for _, n := range c.Nodes() {
		p := mustPod(t, n, "asker-"+n.Name, "asker")
		all = append(all,
			hostClient("host of "+n.Name, n.Host),
			client{name: "pod on " + n.Name, from: p, addr: addrsOf(p.Addr, p.Addr6)})
	}
	return append(all, asClients(backends, vips)...)
}

// outside gives the clients that are no nodes' business.
func outside(c *cluster.Cluster) []client {
	return []client{hostClient("external client", c.Client), hostClient("remote client", c.Remote)}
}

// asClients lets backends ask, themselves among others.
func asClients(backends []*lab.Pod, vips addrs) []client {
	var all []client
	for _, p := range backends {
		all = append(all, client{name: "backend " + p.Name, from: p, addr: addrsOf(p.Addr, p.Addr6), self: vips})
	}
	return all
}

// report is what traffic prints.
type report struct {
	Pods       map[string]int `json:"pods"`
	Clients    map[string]int `json:"clients"`
	Errors     []string       `json:"errors"`
	LongestGap time.Duration  `json:"longestGap"`
}

// mustReport reads what traffic printed, and fails the test for each error in it.
func mustReport(t *testing.T, out []byte, runErr error) report {
	t.Helper()
	r := mustRead(t, out, runErr)
	for _, e := range r.Errors {
		t.Error(e)
	}
	return r
}

// mustRead reads what traffic printed.
func mustRead(t *testing.T, out []byte, runErr error) report {
	t.Helper()
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("read the report %q: %v (%v)", out, err, runErr)
	}
	return r
}
