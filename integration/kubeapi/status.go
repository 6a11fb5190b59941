// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// statuses remembers what the kubelets know of their pods. Others write there too: kube-controller-manager calls the pods of a
// node not ready that was silent for long, also when nobody could be heard because the API server was away.
type statuses struct {
	mu   sync.Mutex
	pods map[types.UID]*status // guarded by mu
}

// status is what the kubelet knows of one pod.
type status struct {
	mu  sync.Mutex  // held through calls, so that the last word is the latest
	pod *corev1.Pod // as it was published last; nil if it never was; guarded by mu
}

// of gives the status of a pod, which stays the same as long as the pod is there.
func (s *statuses) of(uid types.UID) *status {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pods == nil {
		s.pods = map[types.UID]*status{}
	}
	if s.pods[uid] == nil {
		s.pods[uid] = &status{}
	}
	return s.pods[uid]
}

// forget ends what is known of a pod.
func (s *statuses) forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pods, uid)
}

// all gives the status of every pod.
func (s *statuses) all() []*status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.pods))
}

// repeatStatus writes the status of a node's pods again where the API server has another word on whether they are ready.
func (o *objects) repeatStatus(ctx context.Context, node string) error {
	var errs []error
	for _, known := range o.statuses.all() {
		errs = append(errs, o.repeat(ctx, node, known))
	}
	return errors.Join(errs...)
}

func (o *objects) repeat(ctx context.Context, node string, known *status) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	known.mu.Lock()
	defer known.mu.Unlock()
	pod := known.pod
	if pod == nil || pod.Spec.NodeName != node {
		return nil
	}
	there, err := o.client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if err == nil && there.UID == pod.UID && readiness(there) != readiness(pod) {
		err = o.writeStatus(ctx, pod)
	}
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // somebody has deleted it
		return nil
	}
	return fmt.Errorf("repeat the status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
}

// readiness is a pod's condition Ready; empty if nobody has spoken of it.
func readiness(pod *corev1.Pod) corev1.ConditionStatus {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status
		}
	}
	return ""
}

// writeStatus publishes a pod's status, with its conditions as of now.
func (o *objects) writeStatus(ctx context.Context, pod *corev1.Pod) error {
	for i := range pod.Status.Conditions {
		pod.Status.Conditions[i].LastTransitionTime = metav1.NewTime(time.Now())
	}
	if err := o.applyPod(ctx, pod, nil, "status"); err != nil {
		return fmt.Errorf("publish the status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
