// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"crypto/rand"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The Secret in Namespace that holds the keys by which nodes know each other's BFD and peer messages: pods share their
// segment. Each entry of the data is a key, named by its ID, a decimal from 1 to 255; PeerKeySend holds the ID of the one that
// is sent. All are accepted, so a key is replaced in steps: add the new one, wait for all nodes to have it, send it, wait
// again, remove the old one.
const (
	PeerKeysSecret = "sluice-peer-keys"
	PeerKeySend    = "send"
	// PeerKeyOctets is the length of a key: that of a block that HMAC-SHA256 gives (RFC 2104 section 3).
	PeerKeyOctets = 32
)

// NewPeerKeys makes the Secret with one random key.
func NewPeerKeys() *corev1.Secret {
	key := make([]byte, PeerKeyOctets)
	rand.Read(key) // never fails: crypto/rand
	const id = "1"
	return &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: Namespace, Name: PeerKeysSecret, Labels: map[string]string{"app.kubernetes.io/name": "sluice"},
		},
		Type: corev1.SecretTypeOpaque,
		Data: map[string][]byte{id: key, PeerKeySend: []byte(id)},
	}
}
