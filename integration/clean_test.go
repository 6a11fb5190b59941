// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// bulkService has one backend: iperf3 opens two connections and needs both at one server.
const bulkService = `
apiVersion: v1
kind: Service
metadata: {name: bulk, namespace: default, annotations: {sluice-lb.io/networks: macvlan1}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  loadBalancerClass: sluice-lb.io/sluice
  selector: {app: bulk}
  ports:
  - {name: iperf, protocol: TCP, port: 5201, targetPort: 5201}
  - {name: iperf-udp, protocol: UDP, port: 5201, targetPort: 5201}
`

// resets is the filter for what no client and no pod may send while all is well. libpcap finds TCP's flags in IPv4 only.
const resets = "tcp[tcpflags] & tcp-rst != 0 or (ip6 proto 6 and ip6[53] & 4 != 0)"

// mustTool skips a test for want of a program, where testkit would for want of a feature: CI has them all.
func mustTool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if os.Getenv(testkit.RequireEnv) != "" {
		t.Fatalf("%s is missing: ./test_linux.sh gets it", name)
	}
	t.Skipf("%s is missing: ./test_linux.sh gets it where the package sources have it (on Ubuntu: universe)", name)
}

func TestThousandConnectionsFromEveryClientWithoutAReset(t *testing.T) {
	eachAttachment(t, func(t *testing.T, attach string) {
		mustTool(t, "tcpdump")
		c := mustCluster(t, attach, lab.Options{})
		pods, vips := mustWeb(t, c)
		askers := clients(t, c, pods, vips)
		wire := mustCapture(t, c, resets)
		eachFamily(t, func(t *testing.T, f family) {
			for _, client := range askers {
				out, err := client.from.Command(t.Context(), "traffic", "load", "-n", "1000", "-c", "50",
					vips.at(f, "8080")).Output()
				r := mustReport(t, out, err)
				t.Logf("%s: %v", client.name, r.Pods)
			}
		})
		if seen := wire.read(t); seen != "" {
			t.Errorf("resets on the wire:\n%s", seen)
		}
	})
}

func TestBulkTransfersAreClean(t *testing.T) {
	eachAttachment(t, func(t *testing.T, attach string) {
		mustTool(t, "iperf3")
		c := mustCluster(t, attach, lab.Options{})
		pods, vips := mustBulk(t, c)
		all := clients(t, c, pods, vips)
		eachFamily(t, func(t *testing.T, f family) {
			for _, client := range all {
				for _, reverse := range []bool{false, true} {
					sent, retransmitted := iperf(t, client.from, vips[f], "200M", reverse)
					t.Logf("%s, reverse %v: %d bytes, %d retransmissions", client.name, reverse, sent, retransmitted)
					// A storm is a constant share of the segments; a full queue on a busy machine loses a few hundred.
					if segments := sent / 1448; retransmitted > segments/20 {
						t.Errorf("%s, reverse %v: %d of %d segments were sent again", client.name, reverse, retransmitted,
							segments)
					}
				}
			}
		})
	})
}

// On a veth, a checksum is usually left to hardware that does not exist. With that switched off, what is on the wire is
// final, and tcpdump judges it. Large segments are switched off with it: so this also runs frame by frame.
func TestChecksumsOnTheWireAreRight(t *testing.T) {
	mustTool(t, "tcpdump")
	mustTool(t, "iperf3")
	mustTool(t, "ethtool")
	c := mustCluster(t, "auto", lab.Options{})
	mustDoChecksumsInSoftware(t, c)
	webs, webVIPs := mustWeb(t, c)
	bulk, vips := mustBulk(t, c)
	askers := clients(t, c, bulk, vips)
	wire := mustCapture(t, c, "ip or ip6")
	eachFamily(t, func(t *testing.T, f family) {
		for _, client := range askers {
			iperf(t, client.from, vips[f], "2M", false)
			iperf(t, client.from, vips[f], "2M", true)
			ask(t, client, f, "udp", webVIPs.at(f, "8080"), webs)
		}
	})
	wire.judge(t, 1000)
}

// mustDoChecksumsInSoftware makes frames final when they leave a host or a pod, so that a capture can judge them, and the
// receiver does.
func mustDoChecksumsInSoftware(t *testing.T, c *cluster.Cluster, pods ...*lab.Pod) {
	t.Helper()
	off := func(on runner, link string) { mustRun(t, on, "ethtool -K "+link+" tx off") }
	for _, h := range []*lab.Host{c.Client, c.Remote, c.Router} {
		off(h, "eth0")
	}
	for _, n := range c.Nodes() {
		for _, card := range n.Cards() {
			off(n, card)
		}
		if n.MasterName != lab.Card {
			off(n, n.MasterName)
		}
	}
	for _, p := range pods {
		off(p, "net1")
	}
}

// mustBulk adds one pod with an iperf3 server on node 1, so that clients on it are local ones, and the Service bulk.
func mustBulk(t *testing.T, c *cluster.Cluster) (pods []*lab.Pod, vips addrs) {
	t.Helper()
	mustApply(t, c, "bulk.yaml", bulkService)
	p := mustPod(t, c.Node(1), "bulk", "bulk")
	mustListen(t, p)
	return []*lab.Pod{p}, mustServed(t, c, "default/bulk", p)
}

// mustListen starts an iperf3 server in a pod. It takes one client at a time; the first one only finds out that it listens.
func mustListen(t *testing.T, p *lab.Pod) {
	t.Helper()
	if _, err := p.Start("iperf3", "-s"); err != nil {
		t.Fatal(err)
	}
	err := lab.Until(t.Context(), 10*time.Second, "iperf3 listens", func(ctx context.Context) error {
		return p.Command(ctx, "iperf3", "-c", "127.0.0.1", "-n", "1K").Run()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// iperf sends an amount one way and gives the bytes that the sender sent and the segments that it sent again.
func iperf(t *testing.T, from runner, vip, amount string, reverse bool) (sent, retransmitted int) {
	t.Helper()
	args := []string{"-c", vip, "-n", amount, "-J"}
	if reverse {
		args = append(args, "-R")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var result struct {
		Error string `json:"error"`
		End   struct {
			SumSent struct {
				Bytes       int `json:"bytes"`
				Retransmits int `json:"retransmits"`
			} `json:"sum_sent"`
		} `json:"end"`
	}
	// Right after a client, the server may still be busy with its end.
	err := lab.Until(ctx, 10*time.Second, "iperf3 is served", func(ctx context.Context) error {
		out, err := from.Command(ctx, "iperf3", args...).Output()
		if jsonErr := json.Unmarshal(out, &result); jsonErr != nil {
			return fmt.Errorf("%w (%w)", jsonErr, err)
		}
		if strings.Contains(result.Error, "busy") {
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if result.Error != "" {
		t.Errorf("iperf3 to %s: %s", vip, result.Error)
	}
	return result.End.SumSent.Bytes, result.End.SumSent.Retransmits
}

// capture is what passes the switch.
type capture struct {
	cluster *cluster.Cluster
	file    string
	process *lab.Process
}

// mustCapture records the frames on all ports of the switch that match a filter.
func mustCapture(t *testing.T, c *cluster.Cluster, filter string) capture {
	t.Helper()
	w := capture{cluster: c, file: filepath.Join(c.Dir(), "wire.pcap")}
	var err error
	// The shell opens the file: tcpdump gives up root, and how early depends on the distribution.
	w.process, err = c.Switch.Start("sh", "-c", `exec tcpdump -i any -s 0 -B 65536 -U -w - "$1" >"$2"`, "sh", filter, w.file)
	if err != nil {
		t.Fatal(err)
	}
	err = lab.Until(t.Context(), 10*time.Second, "tcpdump listens", func(context.Context) error {
		if !strings.Contains(w.process.Output(), "listening on") {
			return fmt.Errorf("it says %q", w.process.Output())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// judge ends the capture, and fails the test for wrong checksums and for fewer frames than expected. It gives the text.
func (w capture) judge(t *testing.T, least int) (text string) {
	t.Helper()
	text = w.read(t)
	ip4, ip6 := framesOf(text)
	bad := 0
	for line := range strings.Lines(text) {
		if strings.Contains(line, "incorrect") || strings.Contains(line, "bad cksum") || strings.Contains(line, "bad udp cksum") {
			if bad++; bad <= 5 {
				t.Error(strings.TrimSpace(line))
			}
		}
	}
	t.Logf("%d frames of IPv4, %d of IPv6, %d bad checksums", ip4, ip6, bad)
	if min(ip4, ip6) < least {
		t.Errorf("only %d frames of IPv4 and %d of IPv6 were captured", ip4, ip6)
	}
	return text
}

// read ends the capture and gives it as text.
func (w capture) read(t *testing.T) string {
	t.Helper()
	if err := w.process.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := w.text(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// mustHave waits until some frames of each family are recorded: they come some time after they passed, and an end loses them.
func (w capture) mustHave(t *testing.T, least int) {
	t.Helper()
	err := lab.Until(t.Context(), 20*time.Second, "frames are recorded", func(ctx context.Context) error {
		text, err := w.text(ctx) // which fails in the middle of a frame
		if ip4, ip6 := framesOf(text); err == nil && min(ip4, ip6) < least {
			err = fmt.Errorf("%d of IPv4, %d of IPv6", ip4, ip6)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// text gives what is recorded.
func (w capture) text(ctx context.Context) (string, error) {
	file, err := os.Open(w.file)
	if err != nil {
		return "", err
	}
	defer file.Close()
	judge := w.cluster.Switch.Command(ctx, "tcpdump", "-nvvr", "-")
	judge.Stdin = file
	out, err := judge.Output()
	return string(out), err
}

// framesOf counts the frames of each family in a text.
func framesOf(text string) (ip4, ip6 int) {
	return strings.Count(text, "IP (tos"), strings.Count(text, "IP6 (")
}
