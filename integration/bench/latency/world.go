// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/kubeapi"
	"github.com/sluice-lb/sluice/integration/lab"
)

// networkYAML has room for a VIP of each Service, so that the client never met one before.
const networkYAML = `
apiVersion: v1
kind: Namespace
metadata: {name: sluice-system}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: macvlan1, namespace: default}
spec:
  config: |
    { "cniVersion": "1.0.0", "name": "macvlan1", "plugins": [
      { "type": "macvlan", "master": "eth1", "mode": "bridge",
        "ipam": { "type": "host-local", "ranges": [[ { "subnet": "192.168.20.0/24",
          "rangeStart": "192.168.20.20", "rangeEnd": "192.168.20.49", "gateway": "192.168.20.1" } ]] } },
      { "type": "sluice", "vips": ["192.168.20.50-192.168.20.254"] } ] }
`

// firstVIP begins the pool, which has maxServices addresses.
var firstVIP = netip.AddrFrom4([4]byte{192, 168, 20, 50})

const maxServices = 205

const (
	port = 8080
	// limit bounds what should take milliseconds, on a machine that is busy with other things.
	limit = time.Minute
)

// world is Sluice against an API server.
type world struct {
	*cluster.Cluster

	api   *kubeapi.Plane
	given int // addresses of the pool
}

// services creates Services one after the other. Two pods, on a node each, serve all of them.
func (w *world) services(ctx context.Context, count int, f *figures) error {
	for _, n := range w.Nodes() {
		p, err := w.addPod(ctx, n, "web-"+n.Name, "web")
		if err != nil {
			return err
		}
		if err := p.SetReady(true); err != nil {
			return err
		}
	}
	for i := range warmUps + count {
		call, took, err := w.service(ctx, fmt.Sprintf("web-%d", i))
		if err != nil {
			return err
		}
		if i >= warmUps {
			f.serviceCall, f.service = append(f.serviceCall, call), append(f.service, took)
		}
	}
	return nil
}

// service creates one, while the client asks for its VIP already. It gives, in ms, how long the API server took to answer, and
// how long it took until a SYN was answered.
func (w *world) service(ctx context.Context, name string) (call, took float64, err error) {
	svc, target := w.newService(name, "web")
	a, err := w.attempt(ctx, target)
	if err != nil {
		return 0, 0, err
	}
	defer a.stop()
	began := time.Now()
	if _, err := w.api.Client().CoreV1().Services(svc.Namespace).Create(ctx, svc, metav1.CreateOptions{}); err != nil {
		return 0, 0, err
	}
	call = ms(time.Since(began))
	at, err := a.next()
	return call, ms(at.Sub(began)), err
}

// newService gives a Service that asks for the next address of the pool, and where clients will find it.
func (w *world) newService(name, app string) (svc *corev1.Service, target string) {
	addr := firstVIP.As4()
	addr[3] += byte(w.given)
	w.given++
	vip, class := netip.AddrFrom4(addr), "sluice-lb.io/sluice"
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault, Annotations: map[string]string{
			"sluice-lb.io/networks": "macvlan1", "sluice-lb.io/ips": vip.String(),
		}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: &class,
			Selector: map[string]string{"app": app},
			Ports:    []corev1.ServicePort{{Port: port, TargetPort: intstr.FromInt32(80)}},
		},
	}, netip.AddrPortFrom(vip, port).String()
}

// pods has a Service's only pod become ready, and then deleted, again and again, on either node in turn.
func (w *world) pods(ctx context.Context, f *figures) error {
	svc, target := w.newService("single", "single")
	if _, err := w.api.Client().CoreV1().Services(svc.Namespace).Create(ctx, svc, metav1.CreateOptions{}); err != nil {
		return err
	}
	if _, err := w.Served(ctx, "default/single"); err != nil {
		return err
	}
	for i := range warmUps + pods {
		var one figures
		if err := w.pod(ctx, w.Nodes()[i%len(w.Nodes())], fmt.Sprintf("single-%d", i), target, &one); err != nil {
			return err
		}
		if i >= warmUps {
			f.podAdd, f.podAddCall = append(f.podAdd, one.podAdd...), append(f.podAddCall, one.podAddCall...)
			f.podDel, f.podDelCall = append(f.podDel, one.podDel...), append(f.podDelCall, one.podDelCall...)
		}
	}
	return nil
}

// pod is the life of one. Its object goes at once, without a time of grace, while its server runs on: only that nobody sends to
// it any more makes it silent.
func (w *world) pod(ctx context.Context, n *lab.Node, name, target string, f *figures) error {
	p, err := w.addPod(ctx, n, name, "single")
	if err != nil {
		return err
	}
	a, err := w.attempt(ctx, target)
	if err != nil {
		return err
	}
	defer a.stop()
	for _, step := range []struct {
		do          func() error
		calls, took *[]float64
	}{
		{func() error { return p.SetReady(true) }, &f.podAddCall, &f.podAdd},
		{p.Unpublish, &f.podDelCall, &f.podDel},
	} {
		began := time.Now()
		if err := step.do(); err != nil {
			return err
		}
		*step.calls = append(*step.calls, ms(time.Since(began)))
		at, err := a.next()
		if err != nil {
			return err
		}
		if at.Before(began) {
			return fmt.Errorf("pod %s was not asked, or did not answer, while it was to", p)
		}
		*step.took = append(*step.took, ms(at.Sub(began)))
	}
	return p.Delete(ctx)
}

// addPod adds a pod that serves, and is not ready yet.
func (w *world) addPod(ctx context.Context, n *lab.Node, name, app string) (*lab.Pod, error) {
	p, err := n.AddPod(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"app": app},
		Annotations: map[string]string{"k8s.v1.cni.cncf.io/networks": "macvlan1"},
	}})
	if err != nil {
		return nil, err
	}
	if _, err := p.Start("traffic", "serve", "-name", name); err != nil {
		return nil, err
	}
	return p, lab.Until(ctx, limit, "pod "+name+" serves", func(ctx context.Context) error {
		return p.Command(ctx, "traffic", "load", "-n", "1", "127.0.0.1:80").Run()
	})
}

// attempts is the client, which opens connections.
type attempts struct {
	cmd    *lab.Cmd
	lines  *bufio.Reader
	cancel context.CancelFunc
}

// attempt starts the client.
func (w *world) attempt(ctx context.Context, target string) (*attempts, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	a := &attempts{cmd: w.Cluster.Client.Command(ctx, "traffic", "connect", target), cancel: cancel}
	out, err := a.cmd.StdoutPipe()
	if err == nil {
		err = a.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("start the client: %w", err)
	}
	a.lines = bufio.NewReader(out)
	if _, err := a.lines.ReadString('\n'); err != nil {
		a.stop()
		return nil, fmt.Errorf("start the client: %w", err)
	}
	return a, nil
}

// next waits until the client tells a time: that of the first answer, then that of the last.
func (a *attempts) next() (time.Time, error) {
	line, err := a.lines.ReadString('\n')
	if err != nil {
		return time.Time{}, fmt.Errorf("wait for the client %q: %w", a.cmd.Args, err)
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	return time.Unix(0, ns), err
}

// stop ends the client.
func (a *attempts) stop() {
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	_ = a.cmd.Wait() // it has told what there was to tell
	a.cancel()
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
