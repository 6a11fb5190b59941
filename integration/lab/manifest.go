// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Apply publishes a user's manifest under a name, as kubectl apply does. Pods in it are not published, because that takes a
// node: they come back for AddPod.
func (l *Lab) Apply(name string, manifest []byte) ([]*corev1.Pod, error) {
	var pods []*corev1.Pod
	var rest bytes.Buffer
	err := eachDocument(manifest, func(doc []byte) error {
		object, err := read(doc)
		if pod, ok := object.(*corev1.Pod); ok {
			pods = append(pods, pod)
		} else {
			fmt.Fprintf(&rest, "---\n%s", doc)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read manifest %q: %w", name, err)
	}
	if len(bytes.TrimSpace(rest.Bytes())) == 0 {
		return pods, nil
	}
	return pods, l.objects.Apply(name, rest.Bytes())
}

// ApplyFile is Apply for a file, under its own name.
func (l *Lab) ApplyFile(path string) ([]*corev1.Pod, error) {
	manifest, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("apply: %w", err)
	}
	return l.Apply(filepath.Base(path), manifest)
}

// Remove removes what the manifest of that name holds. Removing what is not there succeeds.
func (l *Lab) Remove(name string) error { return l.objects.Remove(name) }

// network gives a NAD that was applied, ready to be run.
func (l *Lab) network(namespace, name string) (network, error) {
	nad, err := l.objects.NAD(namespace, name)
	if err != nil {
		return network{}, err
	}
	if nad == nil {
		return network{}, fmt.Errorf("there is no NAD %s/%s: apply it first", namespace, name)
	}
	return parseNetwork(nad)
}

// eachDocument goes through the YAML documents of a manifest.
func eachDocument(manifest []byte, do func(doc []byte) error) error {
	docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(manifest)))
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = do(doc)
		}
		if err != nil {
			return err
		}
	}
}

// read gives the objects that concern a node, a *corev1.Pod or a NAD that can be run, and nil for others.
func read(doc []byte) (any, error) {
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
		_, err := parseNetwork(nad)
		return nad, err
	}
	return nil, nil
}
