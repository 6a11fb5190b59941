// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// randomWorld changes objects as users, kubelets and Multus do: each change replaces objects, and none is changed in place.
type randomWorld struct {
	*rand.Rand

	objects kube.Objects
	pods    int // ever made
}

func newRandomWorld(seed uint64) *randomWorld {
	w := &randomWorld{Rand: rand.New(rand.NewPCG(seed, 1)), objects: manyObjects(8, 3), pods: 24}
	for i, svc := range w.objects.Services[:2] { // these have users' slices
		svc.Spec.Selector = nil
		w.objects.Slices = append(w.objects.Slices, &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: svc.Namespace, Name: fmt.Sprintf("user-%d", i), Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name},
			},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: new(""), Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080))}},
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.7"}}, {Addresses: []string{"10.0.0.30"}}},
		})
	}
	w.objects.Sort()
	return w
}

// pod replaces one pod by a changed copy.
func (w *randomWorld) pod(change func(*corev1.Pod)) {
	if len(w.objects.Pods) == 0 {
		return
	}
	w.objects.Pods = slices.Clone(w.objects.Pods)
	i := w.IntN(len(w.objects.Pods))
	w.objects.Pods[i] = w.objects.Pods[i].DeepCopy()
	change(w.objects.Pods[i])
}

func (w *randomWorld) service() string {
	return w.objects.Services[w.IntN(len(w.objects.Services))].Spec.Selector["app"]
}

// step makes one change. Those that planner follows are the more frequent.
func (w *randomWorld) step() {
	switch w.IntN(16) {
	case 0, 1, 2, 3:
		w.pod(func(p *corev1.Pod) {
			ready := []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse}[w.IntN(2)]
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
		})
	case 4, 5:
		w.objects.Pods = append(slices.Clone(w.objects.Pods), podBehind(w.service(), w.pods))
		w.pods++
	case 6:
		if i := w.IntN(len(w.objects.Pods) + 1); i < len(w.objects.Pods) {
			w.objects.Pods = slices.Delete(slices.Clone(w.objects.Pods), i, i+1)
		}
	case 7:
		w.pod(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} })
	case 8:
		w.pod(func(p *corev1.Pod) { p.Labels = map[string]string{"app": w.service()} })
	case 9:
		w.pod(func(p *corev1.Pod) { // the address of another, or of a VIP
			for key, text := range p.Annotations {
				to := []string{`"10.0.0.3"`, `"10.200.0.3"`, `"10.0.0.30"`, `7`}[w.IntN(4)]
				p.Annotations[key] = text[:strings.LastIndex(text, `["`)+1] + to + text[strings.LastIndex(text, `"]`)+1:]
			}
		})
	case 10:
		w.pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	case 11:
		w.objects.Services = slices.Clone(w.objects.Services)
		i := w.IntN(len(w.objects.Services))
		svc := w.objects.Services[i].DeepCopy()
		svc.Spec.PublishNotReadyAddresses = !svc.Spec.PublishNotReadyAddresses
		w.objects.Services[i] = svc
	case 12:
		if i := w.IntN(len(w.objects.Slices) + 1); i < len(w.objects.Slices) {
			w.objects.Slices = slices.Delete(slices.Clone(w.objects.Slices), i, i+1)
		}
	default: // the controller writes
		w.write(NewPlan(w.objects, kube.Options{}, time.Unix(0, 0)))
	}
	w.objects.Sort()
}

// write carries a plan out. Objects that are as planned stay the same.
func (w *randomWorld) write(plan Plan) {
	users := slices.DeleteFunc(slices.Clone(w.objects.Slices), kube.OwnSlice)
	stored := map[string]*discoveryv1.EndpointSlice{}
	for _, slice := range w.objects.Slices {
		stored[nameOf(slice)] = slice
	}
	for i, slice := range plan.Slices {
		if old := stored[nameOf(slice)]; old != nil && sameSlice(old, slice) {
			plan.Slices[i] = old
		}
	}
	w.objects.Slices = append(users, plan.Slices...)
	w.objects.Leases, w.objects.Services = plan.Claims, plan.Statuses
	for _, svc := range w.objects.Services {
		svc.UID = types.UID(svc.Name)
	}
}

// withoutIssues leaves out what DeepEqual cannot compare, and Equal can.
func withoutIssues(plan Plan) Plan {
	plan.Issues = nil
	return plan
}

// TestPlannerFollows compares a planner that remembers with one that does not, through random changes.
func TestPlannerFollows(t *testing.T) {
	const worlds, steps = 20, 60
	followed := 0
	for seed := range uint64(worlds) {
		w := newRandomWorld(seed)
		p := newPlanner(kube.Options{})
		for step := range steps {
			w.step()
			now := time.Unix(0, 0) // a condition keeps the time at which it was planned first
			before := p.vips
			got, want := p.plan(w.objects, now), NewPlan(w.objects, kube.Options{}, now)
			if p.vips == before {
				followed++
			}
			if !equality.Semantic.DeepEqual(withoutIssues(want), withoutIssues(got)) || !slices.Equal(want.Issues, got.Issues) {
				t.Fatalf("seed %d, step %d: plan made anew (-), and by a planner that remembers (+):\n%s", seed, step,
					cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})))
			}
		}
	}
	if followed < worlds*steps/4 {
		t.Errorf("the planner followed %d of %d changes, so the test proves little", followed, worlds*steps)
	}
}

// TestControllerWritesOnlyWhatIsNew has a controller sync again and again: each pod that changes costs one write.
func TestControllerWritesOnlyWhatIsNew(t *testing.T) {
	w := newRandomWorld(1)
	w.write(NewPlan(w.objects, kube.Options{}, time.Unix(0, 0)))
	w.objects.Sort()
	p, done := newPlanner(kube.Options{}), &done{}
	sync := func() int {
		store := &countingStore{}
		plan := p.plan(w.objects, time.Unix(1, 0))
		e := newExecution(store, kube.NoEvents{}, slog.New(slog.DiscardHandler), w.objects, plan, done)
		if err := e.do(t.Context()); err != nil {
			t.Fatal(err)
		}
		return store.writes
	}
	if writes := sync(); writes != 0 {
		t.Errorf("%d writes although all is as planned", writes)
	}
	for _, ready := range []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue} {
		w.objects.Pods = slices.Clone(w.objects.Pods)
		i := slices.IndexFunc(w.objects.Pods, func(p *corev1.Pod) bool { return p.Name == "pod-9" })
		w.objects.Pods[i] = w.objects.Pods[i].DeepCopy()
		w.objects.Pods[i].Status.Conditions[0].Status = ready
		// The store writes nothing, so that a slice stays as it was: unready once, and ready as before.
		want := 1
		if ready == corev1.ConditionTrue {
			want = 0
		}
		if writes := sync(); writes != want {
			t.Errorf("%d writes for a pod whose readiness is %s, want %d", writes, ready, want)
		}
	}
	w.objects.Slices = slices.DeleteFunc(slices.Clone(w.objects.Slices), func(s *discoveryv1.EndpointSlice) bool {
		return kube.SliceService(s) == "default/service-00005"
	})
	if writes := sync(); writes != 1 {
		t.Errorf("%d writes for a slice that somebody deleted, want 1", writes)
	}
}

// TestAStatusThatSomebodyChangedIsWrittenAgain has an execution look at what it found to be as planned before, although the plan
// is the same.
func TestAStatusThatSomebodyChangedIsWrittenAgain(t *testing.T) {
	w := newRandomWorld(1)
	w.write(NewPlan(w.objects, kube.Options{}, time.Unix(0, 0)))
	w.objects.Sort()
	plan, done := newPlanner(kube.Options{}).plan(w.objects, time.Unix(1, 0)), &done{}
	for _, want := range []int{0, 1} {
		store := &countingStore{}
		e := newExecution(store, kube.NoEvents{}, slog.New(slog.DiscardHandler), w.objects, plan, done)
		if err := e.do(t.Context()); err != nil || store.writes != want {
			t.Errorf("%d writes and %v, want %d", store.writes, err, want)
		}
		w.objects.Services = slices.Clone(w.objects.Services)
		w.objects.Services[3] = w.objects.Services[3].DeepCopy()
		w.objects.Services[3].Status = corev1.ServiceStatus{}
	}
}
