// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// manyObjects gives Services that select so many pods each on one network.
func manyObjects(services, pods int) kube.Objects {
	nad := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "macvlan1"}}
	nad.Spec.Config = `{"cniVersion": "1.0.0", "name": "macvlan1", "plugins": [
		{"type": "macvlan", "master": "eth1", "mode": "bridge"}, {"type": "sluice", "vips": ["10.200.0.0/16"]}]}`
	out := kube.Objects{Networks: []*nadv1.NetworkAttachmentDefinition{nad}}
	for i := range services {
		name := fmt.Sprintf("service-%05d", i)
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, UID: types.UID(name), Annotations: map[string]string{kube.AnnotationNetworks: "macvlan1"},
		}}
		svc.Spec.Type, svc.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, new(kube.Class)
		svc.Spec.Selector = map[string]string{"app": name}
		svc.Spec.Ports = []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8080)}}
		out.Services = append(out.Services, svc)
		for n := i * pods; n < (i+1)*pods; n++ {
			out.Pods = append(out.Pods, podBehind(name, n))
		}
	}
	out.Sort()
	return out
}

func podBehind(service string, n int) *corev1.Pod {
	addr := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: fmt.Sprintf("pod-%d", n), UID: types.UID(fmt.Sprint(n)), Labels: map[string]string{"app": service},
			Annotations: map[string]string{nadv1.NetworkStatusAnnot: fmt.Sprintf(
				`[{"name":"cbr0","interface":"eth0","ips":["10.244.0.1"],"mac":"02:02:00:00:00:01","default":true},`+
					`{"name":"default/macvlan1","interface":"net1","ips":[%q],"mac":"02:01:00:%02x:%02x:%02x"}]`,
				addr, byte(n>>16), byte(n>>8), byte(n))},
		},
		Spec: corev1.PodSpec{NodeName: fmt.Sprintf("node-%d", n%3)},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
}

// carriedOut gives the objects as they are when a plan has been carried out.
func carriedOut(objects kube.Objects, plan Plan) kube.Objects {
	objects.Leases, objects.Slices, objects.Services = plan.Claims, plan.Slices, plan.Statuses
	return objects
}

// BenchmarkPlan plans for 5,000 Services of 10 pods each: at first, and when nothing has changed.
func BenchmarkPlan(b *testing.B) {
	fresh := manyObjects(5000, 10)
	settled := carriedOut(fresh, NewPlan(fresh, kube.Options{}, time.Now()))
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			NewPlan(fresh, kube.Options{}, time.Now())
		}
	})
	b.Run("same", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			NewPlan(settled, kube.Options{}, time.Now())
		}
	})
	b.Run("same-execution", func(b *testing.B) {
		b.ReportAllocs()
		store := &countingStore{}
		plan := NewPlan(settled, kube.Options{}, time.Now())
		for b.Loop() {
			if err := newExecution(store, kube.NoEvents{}, slog.New(slog.DiscardHandler), settled, plan, &done{}).do(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		if store.writes != 0 {
			b.Errorf("%d writes although nothing has changed", store.writes)
		}
	})
}

// BenchmarkChange plans and executes after one pod of 50,000 has become ready or not.
func BenchmarkChange(b *testing.B) {
	objects := manyObjects(5000, 10)
	objects = carriedOut(objects, NewPlan(objects, kube.Options{}, time.Now()))
	b.ReportAllocs()
	p, done, store := newPlanner(kube.Options{}), &done{}, &countingStore{}
	sync := func() {
		plan := p.plan(objects, time.Now())
		if err := newExecution(store, kube.NoEvents{}, slog.New(slog.DiscardHandler), objects, plan, done).do(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	sync()
	for n := 0; b.Loop(); n++ {
		pod := objects.Pods[0].DeepCopy()
		pod.Status.Conditions[0].Status = []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue}[n%2]
		objects.Pods = append([]*corev1.Pod{pod}, objects.Pods[1:]...)
		sync()
	}
	if store.writes == 0 {
		b.Error("no writes, although a pod has changed")
	}
}

// countingStore counts what is asked of it, and does nothing.
type countingStore struct{ writes int }

func (s *countingStore) write() error { s.writes++; return nil }

func (s *countingStore) Create(context.Context, kube.Object) error { return s.write() }

func (s *countingStore) Update(context.Context, kube.Object) error { return s.write() }

func (s *countingStore) UpdateServiceStatus(context.Context, *corev1.Service) error { return s.write() }

func (s *countingStore) Delete(context.Context, kube.Object) error { return s.write() }
