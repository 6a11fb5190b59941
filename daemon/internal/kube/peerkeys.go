// SPDX-License-Identifier: Apache-2.0

package kube

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PeerKeysSecret is the Secret in Namespace with the keys that nodes know each other by. Agents mount it as a directory, which
// package peerkeys reads.
const PeerKeysSecret = "sluice-peer-keys"

// NewPeerKeys makes the Secret of the files of that directory.
func NewPeerKeys(files map[string][]byte) *corev1.Secret {
	return &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: Namespace, Name: PeerKeysSecret, Labels: map[string]string{"app.kubernetes.io/name": "sluice"},
		},
		Type: corev1.SecretTypeOpaque,
		Data: files,
	}
}
