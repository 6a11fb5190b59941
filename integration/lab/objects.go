// SPDX-License-Identifier: Apache-2.0

package lab

import (
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
)

// Objects is where the lab publishes what users, the scheduler, the kubelet and Multus would: the manifest directory, unless
// PublishTo says otherwise. Its methods are for any goroutine, and removing what is not there succeeds.
type Objects interface {
	// Apply makes the objects of a user's manifest be as it says. What the manifest of that name held before and holds no
	// more is removed.
	Apply(name string, manifest []byte) error
	// Remove removes what the manifest of that name holds.
	Remove(name string) error
	// NAD gives a NAD as Multus reads it, nil if there is none.
	NAD(namespace, name string) (*nadv1.NetworkAttachmentDefinition, error)
	// BindPod makes a pod known, on its spec.nodeName but without addresses, and sets its UID.
	BindPod(*corev1.Pod) error
	// PublishPod publishes the labels, annotations and status of a pod that BindPod has had.
	PublishPod(*corev1.Pod) error
	// RemovePod removes a pod at once. One of the same name with another UID stays.
	RemovePod(*corev1.Pod) error
}

// PublishTo replaces the manifest directory. It must come before whatever publishes.
func (l *Lab) PublishTo(o Objects) { l.objects = o }
