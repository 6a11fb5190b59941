// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/integration/bench/bar"
	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

// bareNAD is macvlan1 of the examples without sluice, and with another range.
var bareNAD = lab.NAD{
	Name:   "bare",
	Ranges: []lab.Range{{Subnet: "192.168.20.0/24", Start: "192.168.20.201", End: "192.168.20.239", Gateway: "192.168.20.1"}},
}.YAML()

const (
	addPairs    = 60
	podsAtOnce  = 100
	atOnceLimit = time.Minute
)

// attach compares ADD of the chain with ADD of the chain without sluice, one after the other, while the agent runs.
func attach(ctx context.Context, c *cluster.Cluster) error {
	if _, err := c.Apply("bare.yaml", []byte(bareNAD)); err != nil {
		return err
	}
	var bare, whole, differences []float64 // in ms
	for i := range addPairs {
		times := map[string]float64{}
		for _, network := range []string{"bare", "macvlan1"} {
			took, err := addAndDelete(ctx, c.Node(1), fmt.Sprintf("%s-%d", network, i), network)
			if err != nil {
				return err
			}
			times[network] = float64(took.Microseconds()) / 1000
		}
		bare, whole = append(bare, times["bare"]), append(whole, times["macvlan1"])
		differences = append(differences, times["macvlan1"]-times["bare"])
	}
	cost := bar.Median(differences)
	return errors.Join(
		bar.Check(cost <= maxAddCost, "ADD: %.1f ms more than macvlan alone (bar %.0f ms; %.1f and %.1f ms; medians of %d)",
			cost, maxAddCost, bar.Median(whole), bar.Median(bare), addPairs),
		c.Remove("bare.yaml"),
	)
}

func addAndDelete(ctx context.Context, n *lab.Node, name, network string) (time.Duration, error) {
	p, err := newPod(ctx, n, name, network)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = p.Attach(ctx)
	took := time.Since(began)
	return took, errors.Join(err, p.Delete(ctx))
}

func newPod(ctx context.Context, n *lab.Node, name, network string) (*lab.Pod, error) {
	return n.NewPod(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: name, Annotations: map[string]string{"k8s.v1.cni.cncf.io/networks": network},
	}})
}

// attachAtOnce runs many ADDs at once, and then as many DELs.
func attachAtOnce(ctx context.Context, c *cluster.Cluster) error {
	pods := make([]*lab.Pod, podsAtOnce)
	for i := range pods {
		var err error
		if pods[i], err = newPod(ctx, c.Node(1), fmt.Sprintf("many-%d", i), "macvlan1"); err != nil {
			return err
		}
	}
	added, addErrs := atOnce(ctx, pods, (*lab.Pod).Attach)
	deleted, deleteErrs := atOnce(ctx, pods, (*lab.Pod).Delete)
	return bar.Check(len(addErrs)+len(deleteErrs) == 0,
		"%d pods at once: %d failures (bar 0) in ADD, %.1f s, and %d (bar 0) in DEL, %.1f s%s", podsAtOnce,
		len(addErrs), added.Seconds(), len(deleteErrs), deleted.Seconds(), firstOf(append(addErrs, deleteErrs...)))
}

// atOnce does something for each pod at the same time, and gives how long all took and what failed.
func atOnce(ctx context.Context, pods []*lab.Pod, do func(*lab.Pod, context.Context) error) (time.Duration, []error) {
	ctx, cancel := context.WithTimeout(ctx, atOnceLimit)
	defer cancel()
	errs := make([]error, len(pods))
	began := time.Now()
	var wg sync.WaitGroup
	for i, p := range pods {
		wg.Go(func() { errs[i] = do(p, ctx) })
	}
	wg.Wait()
	return time.Since(began), slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

func firstOf(errs []error) string {
	if len(errs) == 0 {
		return ""
	}
	return fmt.Sprintf("; the first: %v", errs[0])
}
