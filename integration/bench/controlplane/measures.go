// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"github.com/sluice-lb/sluice/integration/lab"
)

// allLook is how often one looks whether all Services are served: each look reads all objects.
const allLook = 2 * time.Second

// first runs the controller until every Service shows a VIP and every pod is an endpoint.
func (b *bench) first(ctx context.Context) error {
	config := b.api.Config()
	config.ContentType = runtime.ContentTypeProtobuf
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := b.startController(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	look := time.NewTicker(allLook)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-b.controller.Done():
			return errors.New("the controller has ended")
		case <-look.C:
		}
		services, endpoints, err := written(ctx, client)
		if err != nil {
			return err
		}
		if services == b.services+1 && endpoints == b.services*b.endpoints+1 {
			break
		}
	}
	b.figures.add("controller_first_s", time.Since(began).Seconds(), "s", noBar, "controller, from exec to all written, wall clock")
	return b.usage("controller_first", "controller, from exec to all written", b.controller, noBar)
}

// usage adds the CPU time and the memory of a process.
func (b *bench) usage(prefix, what string, p *lab.Process, maxCPU float64) error {
	cpu, err := cpuSeconds(p.PID())
	if err != nil {
		return err
	}
	memory, err := residentMB(p.PID())
	if err != nil {
		return err
	}
	b.figures.add(prefix+"_cpu_s", cpu, "s", maxCPU, what+", CPU")
	b.figures.add(prefix+"_rss_mb", memory, "MB", noBar, what+", resident memory")
	return nil
}

// written counts the Services that show a VIP, and the endpoints in our slices. The API server gives both from memory.
func written(ctx context.Context, client kubernetes.Interface) (services, endpoints int, err error) {
	list, err := client.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return 0, 0, err
	}
	for _, svc := range list.Items {
		services += len(svc.Status.LoadBalancer.Ingress)
	}
	own, err := client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{
		ResourceVersion: "0", LabelSelector: discoveryv1.LabelManagedBy + "=sluice-lb.io",
	})
	if err != nil {
		return 0, 0, err
	}
	for _, slice := range own.Items {
		endpoints += len(slice.Endpoints)
	}
	return services, endpoints, nil
}

// cold starts the agent on a node that knows nothing yet.
func (b *bench) cold(ctx context.Context) error {
	n := b.Node(1)
	if err := n.Command(ctx, "rm", "-r", "/sys/fs/bpf/sluice").Run(); err != nil {
		return err
	}
	began := time.Now()
	if err := b.LaunchAgent(ctx, n); err != nil {
		return err
	}
	err := lab.Until(ctx, limit, "the agent is ready", func(ctx context.Context) error { return b.Ready(ctx, n) })
	if err != nil {
		return err
	}
	b.figures.add("cold_s", time.Since(began).Seconds(), "s", noBar, "agent, from exec to ready, wall clock")
	return b.usage("cold", "agent, from exec to ready", b.Agent(n), maxColdCPU)
}

// memory takes the agent's memory once more. Then it asks whether all that was measured was there.
func (b *bench) memory(ctx context.Context) error {
	n := b.Node(1)
	now, err := residentMB(b.Agent(n).PID())
	if err != nil {
		return err
	}
	for _, f := range b.figures {
		if f.key == "cold_rss_mb" {
			now = max(now, f.value)
		}
	}
	b.figures.add("agent_rss_mb", now, "MB", maxAgentRSS, "agent, resident memory, after its start or after all changes")
	services, err := b.Services(ctx, n)
	if err != nil {
		return err
	}
	backends := 0
	for _, s := range services {
		backends += len(s.Backends)
	}
	if len(services) != b.services+1 || backends != b.services*b.endpoints+1 {
		return fmt.Errorf("the agent balances %d Services with %d backends, want %d with %d",
			len(services), backends, b.services+1, b.services*b.endpoints+1)
	}
	return nil
}

// podChanges has the pod be ready and not ready, through the controller.
func (b *bench) podChanges(ctx context.Context) error {
	times, err := b.measure(ctx, func(_ context.Context, ready bool) error { return b.pod.SetReady(ready) })
	if err != nil {
		return err
	}
	b.figures.addTimes("change", times, maxChange, "pod changed to traffic changed")
	return nil
}

// sliceChanges writes the slice instead of the controller, which does not run: what is measured is the agent's part.
func (b *bench) sliceChanges(ctx context.Context) error {
	if err := b.controller.Stop(ctx); err != nil {
		return err
	}
	slices := b.api.Client().DiscoveryV1().EndpointSlices(namespace)
	list, err := slices.List(ctx, metav1.ListOptions{LabelSelector: "sluice-lb.io/service-name=" + asked})
	if err != nil {
		return err
	}
	if len(list.Items) != 1 || len(list.Items[0].Endpoints) != 1 {
		return fmt.Errorf("the Service that is asked has slices %+v, want one endpoint", list.Items)
	}
	slice := &list.Items[0]
	times, err := b.measure(ctx, func(ctx context.Context, ready bool) (err error) {
		slice.Endpoints[0].Conditions.Ready, slice.Endpoints[0].Conditions.Serving = &ready, &ready
		slice, err = slices.Update(ctx, slice, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	b.figures.addTimes("slice_change", times, maxChange, "slice changed to traffic changed")
	return nil
}

// measure makes changes, and gives the times in ms from the API server's answer to the first connection that fares otherwise.
func (b *bench) measure(ctx context.Context, change func(ctx context.Context, ready bool) error) ([]float64, error) {
	turns, err := b.watchTurns(ctx)
	if err != nil {
		return nil, err
	}
	defer turns.stop()
	if err := turns.wait(ctx, "open", nil); err != nil {
		return nil, err
	}
	var times []float64
	for range b.changes {
		for _, ready := range []bool{false, true} {
			want := "refused"
			if ready {
				want = "open"
			}
			if err := change(ctx, ready); err != nil {
				return nil, err
			}
			answered, turned := time.Now(), time.Time{}
			if err := turns.wait(ctx, want, &turned); err != nil {
				return nil, err
			}
			times = append(times, max(0, float64(turned.Sub(answered).Microseconds())/1000))
		}
	}
	return times, nil
}
