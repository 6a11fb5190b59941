// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Apply puts a user's manifest into the manifest directory under a file name, as kubectl apply does. Pods in it are not
// published, because that takes a node: they come back for AddPod.
func (l *Lab) Apply(name string, manifest []byte) ([]*corev1.Pod, error) {
	var pods []*corev1.Pod
	var rest bytes.Buffer
	docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(manifest)))
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read manifest %q: %w", name, err)
		}
		pod, err := l.take(doc)
		switch {
		case err != nil:
			return nil, fmt.Errorf("read manifest %q: %w", name, err)
		case pod != nil:
			pods = append(pods, pod)
		default:
			fmt.Fprintf(&rest, "---\n%s", doc)
		}
	}
	if len(bytes.TrimSpace(rest.Bytes())) == 0 {
		return pods, nil
	}
	return pods, l.writeFile(name, rest.Bytes())
}

// ApplyFile is Apply for a file, under its own name.
func (l *Lab) ApplyFile(path string) ([]*corev1.Pod, error) {
	manifest, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("apply: %w", err)
	}
	return l.Apply(filepath.Base(path), manifest)
}

// take remembers a NAD and picks out a pod; other objects do not concern a node.
func (l *Lab) take(doc []byte) (*corev1.Pod, error) {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &kind); err != nil {
		return nil, err
	}
	switch kind.Kind {
	case "Pod":
		pod := &corev1.Pod{}
		return pod, yaml.UnmarshalStrict(doc, pod)
	case "NetworkAttachmentDefinition":
		nad := &nadv1.NetworkAttachmentDefinition{}
		if err := yaml.UnmarshalStrict(doc, nad); err != nil {
			return nil, err
		}
		if nad.Namespace == "" {
			nad.Namespace = metav1.NamespaceDefault
		}
		nw, err := parseNetwork(nad)
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.networks[nw.name] = nw
	}
	return nil, nil
}

// network gives a NAD that was applied.
func (l *Lab) network(name string) (network, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	nw, ok := l.networks[name]
	return nw, ok
}

// Remove takes a file out of the manifest directory. Removing what is not there succeeds.
func (l *Lab) Remove(name string) error {
	if err := os.Remove(filepath.Join(l.ManifestDir(), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove manifest: %w", err)
	}
	return nil
}

func (l *Lab) write(name string, object any) error {
	text, err := yaml.Marshal(object)
	if err != nil {
		return fmt.Errorf("write manifest %q: %w", name, err)
	}
	return l.writeFile(name, text)
}

// writeFile replaces a manifest atomically: who watches the directory never reads half of one.
func (l *Lab) writeFile(name string, text []byte) error {
	tmp := filepath.Join(l.dir, name+".tmp")
	if err := os.WriteFile(tmp, text, 0o644); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(l.ManifestDir(), name)); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return nil
}
