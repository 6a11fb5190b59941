// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// manifests is the Objects that are files: a manifest of a user each, or a pod.
type manifests struct {
	dir string
	tmp string // on the same file system

	mu   sync.Mutex
	nads map[types.NamespacedName]*nadv1.NetworkAttachmentDefinition // ever applied; guarded by mu
}

func newManifests(dir, tmp string) *manifests {
	return &manifests{dir: dir, tmp: tmp, nads: map[types.NamespacedName]*nadv1.NetworkAttachmentDefinition{}}
}

// Apply is Objects'.
func (m *manifests) Apply(name string, manifest []byte) error {
	err := eachDocument(manifest, func(doc []byte) error {
		object, err := read(doc)
		if nad, ok := object.(*nadv1.NetworkAttachmentDefinition); ok && err == nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.nads[types.NamespacedName{Namespace: nad.Namespace, Name: nad.Name}] = nad
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read manifest %q: %w", name, err)
	}
	return m.write(name, manifest)
}

// Remove is Objects'.
func (m *manifests) Remove(name string) error {
	if err := os.Remove(filepath.Join(m.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove manifest: %w", err)
	}
	return nil
}

// NAD is Objects'.
func (m *manifests) NAD(namespace, name string) (*nadv1.NetworkAttachmentDefinition, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.nads[types.NamespacedName{Namespace: namespace, Name: name}], nil
}

// BindPod is Objects'. The pod's file waits for PublishPod: without addresses it says nothing that a file is read for.
func (m *manifests) BindPod(pod *corev1.Pod) error {
	pod.UID = types.UID(fmt.Sprintf("%s-%s-4%s-a%s-%s", randomID(8), randomID(4), randomID(3), randomID(3), randomID(12)))
	return nil
}

// PublishPod is Objects'.
func (m *manifests) PublishPod(pod *corev1.Pod) error {
	text, err := yaml.Marshal(pod)
	if err != nil {
		return fmt.Errorf("write manifest %q: %w", podFile(pod), err)
	}
	return m.write(podFile(pod), text)
}

// RemovePod is Objects'.
func (m *manifests) RemovePod(pod *corev1.Pod) error { return m.Remove(podFile(pod)) }

func podFile(pod *corev1.Pod) string { return "pod-" + pod.Namespace + "-" + pod.Name + ".yaml" }

// write replaces a manifest atomically: who watches the directory never reads half of one.
func (m *manifests) write(name string, text []byte) error {
	tmp := filepath.Join(m.tmp, name+".tmp")
	if err := os.WriteFile(tmp, text, 0o644); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(m.dir, name)); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return nil
}
