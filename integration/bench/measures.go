// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/integration/bench/bar"
	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

// serviceYAML is a Service of one pod; the placeholders are its name and its port. Port 80 answers datagrams.
const serviceYAML = `
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: default, annotations: {sluice-lb.io/networks: macvlan1}}
spec:
  type: LoadBalancer
  loadBalancerClass: sluice-lb.io/sluice
  selector: {app: %[1]s}
  ports:
  - {name: iperf, protocol: TCP, port: 5201, targetPort: 5201}
  - {name: datagrams, protocol: UDP, port: %[2]d, targetPort: 80}
`

const (
	runs      = 15 // of bulk TCP each way: one run differs from the next by more than the bar leaves
	addPort   = 8080
	newPorts  = 15
	iperfTime = "2"
)

// addPod adds a ready pod with an iperf3 and a datagram server and waits until its Service sends to it.
func addPod(ctx context.Context, c *cluster.Cluster, n *lab.Node, name, app string) (*lab.Pod, string, error) {
	p, err := n.AddPod(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"app": app},
		Annotations: map[string]string{"k8s.v1.cni.cncf.io/networks": "macvlan1"},
	}})
	if err != nil {
		return nil, "", err
	}
	for _, server := range [][]string{{"iperf3", "-s"}, {"traffic", "serve", "-name", name}} {
		if _, err := p.Start(server[0], server[1:]...); err != nil {
			return nil, "", err
		}
	}
	err = lab.Until(ctx, 10*time.Second, "iperf3 listens", func(ctx context.Context) error {
		return p.Command(ctx, "iperf3", "-c", "127.0.0.1", "-n", "1K").Run()
	})
	if err != nil {
		return nil, "", err
	}
	if err := p.SetReady(true); err != nil {
		return nil, "", err
	}
	ports, err := c.Served(ctx, "default/"+app, 1, p.String())
	if err != nil {
		return nil, "", err
	}
	return p, ports[0].VIP.String(), nil
}

// bulk compares TCP through the VIP with TCP to the pod, for a pod on the owner's node and for one elsewhere.
func (b bench) bulk(ctx context.Context, c *cluster.Cluster) error {
	if _, err := c.Apply("bulk.yaml", fmt.Appendf(nil, serviceYAML, "bulk", addPort)); err != nil {
		return err
	}
	if _, err := c.Served(ctx, "default/bulk", 1); err != nil {
		return err
	}
	ports, err := c.Ports(ctx, c.Node(1), "default/bulk")
	if err != nil {
		return err
	}
	owner := c.NodeByName(ports[0].Owner)
	if owner == nil {
		return fmt.Errorf("nobody owns %s", ports[0].VIP)
	}
	var other *lab.Node
	for _, n := range c.Nodes() {
		if n != owner {
			other = n
		}
	}
	return errors.Join(
		b.bulkTo(ctx, c, owner, "on the owner's node"),
		b.bulkTo(ctx, c, other, "on another node"),
		c.Remove("bulk.yaml"),
	)
}

func (b bench) bulkTo(ctx context.Context, c *cluster.Cluster, n *lab.Node, what string) error {
	p, vip, err := addPod(ctx, c, n, "bulk", "bulk")
	if err != nil {
		return err
	}
	r := bulkRates{}
	if err := r.measure(ctx, c.Client, p.Addr.String(), vip, b.cpus); err != nil {
		return err
	}
	return errors.Join(r.judge("bulk TCP to a pod "+what), p.Delete(ctx))
}

// bulkRates are the rates of transfers to the pod and to the VIP, in bit/s.
type bulkRates struct{ direct, balanced []float64 }

// measure takes all runs each way, interleaved, so that a busy moment of the machine hits both ways. Their number is fixed
// beforehand: to go on until the bar is met would find a lucky moment sooner or later.
func (r *bulkRates) measure(ctx context.Context, from *lab.Host, pod, vip, cpus string) error {
	ways := []struct {
		addr  string
		rates *[]float64
	}{{pod, &r.direct}, {vip, &r.balanced}}
	for range runs {
		for _, way := range ways {
			rate, err := iperf(ctx, from, way.addr, cpus)
			if err != nil {
				return err
			}
			*way.rates = append(*way.rates, rate)
		}
		slices.Reverse(ways) // neither way is always the second of a pair
	}
	return nil
}

// judge compares pair by pair: what slows the machine for a while slows both of a pair. The truth lies between the 4th and the
// 12th of 15 ratios with 96 % (the median's binomial interval), so a bar above that is missed, and one within is undecided.
func (r *bulkRates) judge(what string) error {
	ratios := make([]float64, len(r.direct))
	for i := range ratios {
		ratios[i] = r.balanced[i] / r.direct[i]
	}
	slices.Sort(ratios)
	low, high := ratios[runs/4], ratios[runs-1-runs/4]
	what = fmt.Sprintf("%s: VIP / direct = %.3f, %.3f to %.3f with 96 %% (bar %.2f; medians %.2f and %.2f Gbit/s; %d pairs)",
		what, bar.Median(ratios), low, high, minBulkRatio, bar.Median(r.balanced)/1e9, bar.Median(r.direct)/1e9, len(ratios))
	if low < minBulkRatio && minBulkRatio <= high {
		fmt.Println("unsure  " + what)
		return nil
	}
	return bar.Check(low >= minBulkRatio, "%s", what)
}

// iperf gives the receiver's rate in bit/s. cpus are those of its two ends, as iperf3's option -A has them; empty: any.
func iperf(ctx context.Context, from *lab.Host, addr, cpus string) (float64, error) {
	args := []string{"-c", addr, "-t", iperfTime, "-J"}
	if cpus != "" {
		args = append(args, "-A", cpus)
	}
	out, err := from.Command(ctx, "iperf3", args...).Output()
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	var result struct {
		End struct {
			SumReceived struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return 0, fmt.Errorf("read iperf3's result: %w", err)
	}
	return result.End.SumReceived.BitsPerSecond, nil
}

// latency measures from the moment that a Service's manifest has a new port to the first answer on it.
func latency(ctx context.Context, c *cluster.Cluster) error {
	manifest := func(port int) []byte { return fmt.Appendf(nil, serviceYAML, "quick", port) }
	if _, err := c.Apply("quick.yaml", manifest(addPort)); err != nil {
		return err
	}
	_, vip, err := addPod(ctx, c, c.Node(1), "quick", "quick")
	if err != nil {
		return err
	}
	var took []int
	for i := range newPorts {
		port := addPort + 1 + i
		us, err := firstAnswer(ctx, c, vip, port, func() error {
			_, err := c.Apply("quick.yaml", manifest(port))
			return err
		})
		if err != nil {
			return err
		}
		took = append(took, us)
	}
	m := bar.Median(took)
	return bar.Check(m <= maxLatency, "manifest changed to first answer: median %.1f ms, worst %.1f ms (bar %d ms)",
		float64(m)/1000, float64(slices.Max(took))/1000, maxLatency/1000)
}

func firstAnswer(ctx context.Context, c *cluster.Cluster, vip string, port int, change func() error) (us int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := c.Client.Command(ctx, "traffic", "first", vip+":"+strconv.Itoa(port))
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	lines := bufio.NewReader(stdout)
	if _, err := lines.ReadString('\n'); err != nil {
		return 0, fmt.Errorf("start traffic: %w", err)
	}
	start := time.Now()
	if err := change(); err != nil {
		return 0, err
	}
	line, err := lines.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("port %d was not answered: %w", port, err)
	}
	at, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil {
		return 0, err
	}
	return int(time.Unix(0, at).Sub(start).Microseconds()), cmd.Wait()
}

// rss reads the resident memory of the agents.
func rss(_ context.Context, c *cluster.Cluster) error {
	worst := 0
	for _, n := range c.Nodes() {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Agent(n).PID()))
		if err != nil {
			return err
		}
		_, after, _ := strings.Cut(string(status), "VmRSS:")
		kb, err := strconv.Atoi(strings.Fields(after)[0])
		if err != nil {
			return fmt.Errorf("read VmRSS of the agent of %s: %w", n.Name, err)
		}
		worst = max(worst, kb)
	}
	return bar.Check(worst <= maxIdleRSS, "agent's resident memory: %.1f MB at most (bar %d MB)",
		float64(worst)/1000, maxIdleRSS/1000)
}
