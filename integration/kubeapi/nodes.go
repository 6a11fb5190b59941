// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coordinationapply "k8s.io/client-go/applyconfigurations/coordination/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/sluice-lb/sluice/integration/lab"
)

const (
	// heartbeat is how often a kubelet renews its Lease, and leaseDuration how long it says that this holds: the kubelet's
	// defaults. kube-controller-manager calls a node dead that has been silent for 50 s.
	heartbeat     = 10 * time.Second
	leaseDuration = 40 * time.Second
	// retry is how soon a kubelet tries again that could not reach the API server.
	retry = time.Second
)

// kubelet says of one node and its pods what its kubelet would. Its methods are for any goroutine.
type kubelet struct {
	objects *objects
	name    string
	uid     types.UID

	mu    sync.Mutex // held through calls, so that the last word is the latest
	ready bool       // guarded by mu
}

// register makes the lab's node known, and ready.
func register(ctx context.Context, o *objects, n *lab.Node) (*kubelet, error) {
	node, err := o.client.CoreV1().Nodes().Create(ctx, nodeOf(n), metav1.CreateOptions{FieldManager: asKubelet})
	if err != nil {
		return nil, fmt.Errorf("register %s: %w", n.Name, err)
	}
	k := &kubelet{objects: o, name: n.Name, uid: node.UID, ready: true}
	return k, k.beat(ctx)
}

// live sends heartbeats until the context ends, and looks after the pods' status as often, which is also the kubelet's default.
// What fails is repeated: the API server may be away, as tests have it.
func (k *kubelet) live(ctx context.Context) {
	timer := time.NewTimer(heartbeat)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next := heartbeat
		if errors.Join(k.beat(ctx), k.objects.repeatStatus(ctx, k.name)) != nil {
			next = retry
		}
		timer.Reset(next)
	}
}

// beat renews the node's Lease, and says again whether the node is ready if the API server has another word.
func (k *kubelet) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	k.mu.Lock()
	defer k.mu.Unlock()
	owner := metaapply.OwnerReference().WithAPIVersion("v1").WithKind("Node").WithName(k.name).WithUID(k.uid)
	lease := coordinationapply.Lease(k.name, corev1.NamespaceNodeLease).WithOwnerReferences(owner).
		WithSpec(coordinationapply.LeaseSpec().WithHolderIdentity(k.name).WithRenewTime(metav1.NowMicro()).
			WithLeaseDurationSeconds(int32(leaseDuration / time.Second)))
	leases := k.objects.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	if _, err := leases.Apply(ctx, lease, metav1.ApplyOptions{FieldManager: asKubelet, Force: true}); err != nil {
		return fmt.Errorf("renew the Lease of %s: %w", k.name, err)
	}
	there, err := k.objects.client.CoreV1().Nodes().Get(ctx, k.name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read node %s: %w", k.name, err)
	}
	for _, c := range there.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == conditionOf(k.ready) {
			return nil
		}
	}
	return k.say(ctx)
}

// setReady is what a kubelet says when its runtime or its network fails, or works again.
func (k *kubelet) setReady(ctx context.Context, ready bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ready = ready
	return k.say(ctx)
}

// say publishes the node's condition Ready. The caller holds mu.
func (k *kubelet) say(ctx context.Context) error {
	now := metav1.Now()
	condition := coreapply.NodeCondition().WithType(corev1.NodeReady).WithStatus(conditionOf(k.ready)).
		WithReason("Test").WithLastHeartbeatTime(now).WithLastTransitionTime(now)
	node := coreapply.Node(k.name).WithUID(k.uid).WithStatus(coreapply.NodeStatus().WithConditions(condition))
	_, err := k.objects.client.CoreV1().Nodes().ApplyStatus(ctx, node, metav1.ApplyOptions{FieldManager: asKubelet, Force: true})
	if err != nil {
		return fmt.Errorf("publish the condition of node %s: %w", k.name, err)
	}
	return nil
}

func conditionOf(ready bool) corev1.ConditionStatus {
	if ready {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}

// nodeOf is a lab's node as its kubelet registers it.
func nodeOf(n *lab.Node) *corev1.Node {
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi"),
		corev1.ResourcePods: resource.MustParse("110"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: map[string]string{
			corev1.LabelHostname: n.Name, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		}},
		Status: corev1.NodeStatus{
			Capacity: room, Allocatable: room,
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: n.Internal.String()},
				{Type: corev1.NodeHostName, Address: n.Name},
			},
			NodeInfo: corev1.NodeSystemInfo{OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH},
		},
	}
}
