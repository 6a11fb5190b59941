// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

var netips = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

func TestConverterAgreesWithSnapshot(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	all := manyObjects(8, 3)
	for _, svc := range all.Services[:2] {
		svc.Spec.LoadBalancerClass = new("another") // not ours
	}
	all.Services[2].Spec.LoadBalancerSourceRanges = []string{"nonsense"} // with an issue
	all.Slices[0].Annotations[kube.AnnotationMACs] = "nonsense"
	all.Slices[1].Labels[kube.LabelManagedBy] = "another"
	all.Leases[0].Labels[kube.LabelNodeFacts] = ""
	all.Leases[1].Annotations[kube.AnnotationSegments] = ""
	broken := all.Networks[0].DeepCopy()
	broken.Name, broken.Spec.Config = "broken", `{"plugins": [{"type": "bridge"}, {"type": "sluice"}]}`
	all.Networks = append(all.Networks, broken)
	all.Sort()

	c := kube.NewConverter(kube.Options{})
	for step := range 500 {
		// Each object comes, goes, and is another with the same content now and then.
		o := all
		o.Services, o.Networks = some(random, all.Services), some(random, all.Networks)
		o.Slices, o.Leases = some(random, all.Slices), some(random, all.Leases)
		if step%2 == 0 {
			o = all
		}
		if n := random.IntN(len(all.Slices)); random.IntN(3) == 0 {
			all.Slices = slices.Clone(all.Slices)
			all.Slices[n] = all.Slices[n].DeepCopy()
			all.Slices[n].Endpoints = all.Slices[n].Endpoints[:random.IntN(len(all.Slices[n].Endpoints)+1)]
		}
		if diff := cmp.Diff(o.Snapshot(kube.Options{}), c.Snapshot(o), netips, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("step %d: Converter and Snapshot differ (-Snapshot +Converter):\n%s", step, diff)
		}
	}
}

// some leaves out a few.
func some[T any](random *rand.Rand, all []T) []T {
	return slices.DeleteFunc(slices.Clone(all), func(T) bool { return random.IntN(10) == 0 })
}

func TestConverterReadsOnlyWhatIsNew(t *testing.T) {
	objects := manyObjects(3, 2)
	c := kube.NewConverter(kube.Options{})
	first := c.Snapshot(objects)
	objects.Slices = slices.Clone(objects.Slices)
	objects.Slices[1] = sliceOf(objects.Services[1], 2, 2)
	second := c.Snapshot(objects)
	for i, read := range []bool{false, true, false} {
		if again := &first.Slices[i].Endpoints[0] != &second.Slices[i].Endpoints[0]; again != read {
			t.Errorf("slice %d was read again: %t, want %t", i, again, read)
		}
	}
	if &first.Services[0] != &second.Services[0] {
		t.Error("Services were copied, though none changed")
	}
	objects.Leases = slices.Clone(objects.Leases)
	objects.Leases = slices.DeleteFunc(objects.Leases, func(l *coordinationv1.Lease) bool {
		return l.Annotations[kube.AnnotationService] == "default/service-00001"
	})
	third := c.Snapshot(objects)
	for i, want := range []int{1, 0, 1} {
		if before, now := len(first.Services[i].VIPs), len(third.Services[i].VIPs); before != 1 || now != want {
			t.Errorf("Service %d has %d VIPs, and %d without a claim of Service 1", i, before, now)
		}
	}
}
