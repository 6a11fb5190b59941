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
var networkYAML = "apiVersion: v1\nkind: Namespace\nmetadata: {name: sluice-system}\n---\n" + lab.NAD{
	Name:   "macvlan1",
	Ranges: []lab.Range{{Subnet: "192.168.20.0/24", Start: "192.168.20.20", End: "192.168.20.49", Gateway: "192.168.20.1"}},
	VIPs:   []string{"192.168.20.50-192.168.20.254"},
}.YAML()

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

// sample is one run of one measure: both times begin when the request is about to be sent.
type sample struct {
	call time.Duration // to the API server's answer
	took time.Duration // to the SYN
}

// services creates Services one after the other. Two pods, on a node each, serve all of them.
func (w *world) services(ctx context.Context, count int) (s series, err error) {
	for _, n := range w.Nodes() {
		p, err := w.addPod(ctx, n, "web-"+n.Name, "web")
		if err != nil {
			return series{}, err
		}
		if err := p.SetReady(true); err != nil {
			return series{}, err
		}
	}
	for i := range warmUps + count {
		one, err := w.service(ctx, fmt.Sprintf("web-%d", i))
		if err != nil {
			return series{}, err
		}
		if i >= warmUps {
			s.add(one)
		}
	}
	return s, nil
}

// service creates one, while the client asks for its VIP already.
func (w *world) service(ctx context.Context, name string) (sample, error) {
	svc, target := w.newService(name, "web")
	a, err := w.attempt(ctx, target)
	if err != nil {
		return sample{}, err
	}
	defer a.stop()
	return a.follow(func() error { return w.create(ctx, svc) })
}

func (w *world) create(ctx context.Context, svc *corev1.Service) error {
	_, err := w.api.Client().CoreV1().Services(svc.Namespace).Create(ctx, svc, metav1.CreateOptions{})
	return err
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
func (w *world) pods(ctx context.Context) (add, del series, err error) {
	svc, target := w.newService("single", "single")
	if err := w.create(ctx, svc); err != nil {
		return add, del, err
	}
	if _, err := w.Served(ctx, "default/single", 1); err != nil {
		return add, del, err
	}
	for i := range warmUps + pods {
		ready, deleted, err := w.pod(ctx, w.Nodes()[i%len(w.Nodes())], fmt.Sprintf("single-%d", i), target)
		if err != nil {
			return add, del, err
		}
		if i >= warmUps {
			add.add(ready)
			del.add(deleted)
		}
	}
	return add, del, nil
}

// pod is the life of one. Its object goes at once, without a time of grace, while its server runs on: only that nobody sends to
// it any more makes it silent.
func (w *world) pod(ctx context.Context, n *lab.Node, name, target string) (ready, deleted sample, err error) {
	p, err := w.addPod(ctx, n, name, "single")
	if err != nil {
		return ready, deleted, err
	}
	a, err := w.attempt(ctx, target)
	if err != nil {
		return ready, deleted, err
	}
	defer a.stop()
	if ready, err = a.follow(func() error { return p.SetReady(true) }); err == nil {
		deleted, err = a.follow(p.Unpublish)
	}
	if err != nil {
		return ready, deleted, fmt.Errorf("follow pod %s: %w", p, err)
	}
	return ready, deleted, p.Delete(ctx)
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
	a := &attempts{cmd: w.Client.Command(ctx, "traffic", "connect", target), cancel: cancel}
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

// follow sends a request, and waits until the client tells a time: first that of the first answer, then that of the last.
func (a *attempts) follow(request func() error) (sample, error) {
	began := time.Now()
	if err := request(); err != nil {
		return sample{}, err
	}
	call := time.Since(began)
	line, err := a.lines.ReadString('\n')
	if err != nil {
		return sample{}, fmt.Errorf("wait for %q: %w", a.cmd.Args, err)
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil {
		return sample{}, fmt.Errorf("read what %q tells: %w", a.cmd.Args, err)
	}
	took := time.Unix(0, ns).Sub(began)
	if took < 0 {
		return sample{}, fmt.Errorf("%q tells of a time %v before the request", a.cmd.Args, -took)
	}
	return sample{call, took}, nil
}

// stop ends the client.
func (a *attempts) stop() {
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	_ = a.cmd.Wait() // it has told what there was to tell
	a.cancel()
}
