// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"cmp"
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/sluice-lb/sluice/integration/lab"
)

var pods = corev1.SchemeGroupVersion.WithResource("pods")

// hasAccount says whether pods of a ServiceAccount can be created: kube-controller-manager makes the accounts named default
// some time after their namespace.
func (o *objects) hasAccount(ctx context.Context, namespace, name string) error {
	_, err := o.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
	return err
}

// BindPod is lab.Objects'. It creates the pod, unless a user has, and does the scheduler's part.
func (o *objects) BindPod(pod *corev1.Pod) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	node := pod.Spec.NodeName
	there, err := o.findOrCreate(ctx, pod)
	if err != nil {
		return err
	}
	if there.Spec.NodeName != "" {
		return fmt.Errorf("bind pod %s/%s to %s: it is on %s already", pod.Namespace, pod.Name, node, there.Spec.NodeName)
	}
	err = o.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: there.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("bind pod %s/%s to %s: %w", pod.Namespace, pod.Name, node, err)
	}
	pod.UID, pod.Spec = there.UID, there.Spec
	pod.Spec.NodeName = node
	return nil
}

// findOrCreate gives the pod as the API server has it.
func (o *objects) findOrCreate(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	there, err := o.client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return there, err
	}
	account := cmp.Or(pod.Spec.ServiceAccountName, "default")
	err = lab.Until(ctx, callLimit, "ServiceAccount "+pod.Namespace+"/"+account+" is there", func(ctx context.Context) error {
		return o.hasAccount(ctx, pod.Namespace, account)
	})
	if err != nil {
		return nil, err
	}
	pod = pod.DeepCopy()
	pod.Spec.NodeName = ""
	if len(pod.Spec.Containers) == 0 { // the lab needs none, the API server does
		pod.Spec.Containers = []corev1.Container{{Name: "main", Image: "registry.invalid/main"}}
	}
	created := &corev1.Pod{}
	if err := o.applyPod(ctx, pod, created, "metadata", "spec"); err != nil {
		return nil, fmt.Errorf("create pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return created, nil
}

// PublishPod is lab.Objects'. Labels and annotations go first, as Multus writes network-status before the kubelet tells of
// the pod.
func (o *objects) PublishPod(pod *corev1.Pod) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	pod = pod.DeepCopy()
	if node := o.lab.NodeByName(pod.Spec.NodeName); node != nil {
		pod.Status.HostIP = node.Internal.String()
		pod.Status.HostIPs = []corev1.HostIP{{IP: pod.Status.HostIP}}
	}
	known := o.statuses.of(pod.UID)
	known.mu.Lock()
	defer known.mu.Unlock()
	if known.pod == nil || !sameMetadata(pod, known.pod) {
		// Without the specification the kubelet would give up what it owns of it, which nobody may.
		if err := o.applyPod(ctx, pod, nil, "metadata", "spec"); err != nil {
			return fmt.Errorf("publish pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	}
	known.pod = pod // also if the next call fails: the kubelet knows it all the same
	return o.writeStatus(ctx, pod)
}

func sameMetadata(a, b *corev1.Pod) bool {
	return maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations)
}

// applyPod is server-side apply of some parts of a pod, of which the status goes alone. What comes back is put into result
// unless that is nil.
func (o *objects) applyPod(ctx context.Context, pod, result *corev1.Pod, parts ...string) error {
	whole, err := runtime.DefaultUnstructuredConverter.ToUnstructured(pod)
	if err != nil {
		return err
	}
	object := &unstructured.Unstructured{Object: map[string]any{}}
	for _, part := range parts {
		object.Object[part] = whole[part]
	}
	object.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	object.SetName(pod.Name)
	object.SetNamespace(pod.Namespace)
	object.SetUID(pod.UID) // so that one of the same name stays as it is
	options := metav1.ApplyOptions{FieldManager: asKubelet, Force: true}
	where, to := o.dyn.Resource(pods).Namespace(pod.Namespace), []string{}
	if parts[0] == "status" {
		to = append(to, "status")
	}
	got, err := where.Apply(ctx, pod.Name, object, options, to...)
	if err != nil || result == nil {
		return err
	}
	return runtime.DefaultUnstructuredConverter.FromUnstructured(got.Object, result)
}

// RemovePod is lab.Objects'.
func (o *objects) RemovePod(pod *corev1.Pod) error {
	if pod.UID == "" {
		return nil // never bound
	}
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	now := int64(0)
	err := o.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		o.statuses.forget(pod.UID)
		return nil
	}
	return fmt.Errorf("remove pod %s/%s: %w", pod.Namespace, pod.Name, err)
}
