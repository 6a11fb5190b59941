// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

const header = "# Written by sluiced controller, and rewritten when it changes.\n"

// Writer stores the controller's objects, one a file. A file is whole or absent at any moment, readable by all, and not
// touched if it holds the same bytes already. The Source knows a write at once and calls no notify for it.
type Writer struct {
	source *Source
}

// Writer gives the writer of the directory. There must be one in all processes, which the caller sees to: Create never
// replaces a file, but Delete removes whatever has that name by then.
func (s *Source) Writer() *Writer { return &Writer{source: s} }

// Create stores a new object. If one of that name exists, errors.Is(err, fs.ErrExist) holds.
func (w *Writer) Create(_ context.Context, object kube.Object) error {
	path, data, err := encode(object)
	if err != nil {
		return err
	}
	return w.write(path, data, os.Link) // which, unlike os.Rename, never replaces a file
}

// Update stores an object, new or not.
func (w *Writer) Update(_ context.Context, object kube.Object) error {
	path, data, err := encode(object)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(filepath.Join(w.source.dir, path)); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return w.write(path, data, os.Rename)
}

// UpdateServiceStatus stores what the controller says of a Service: its status, and AnnotationVIPs. If it says nothing,
// the file goes.
func (w *Writer) UpdateServiceStatus(ctx context.Context, svc *corev1.Service) error {
	status := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name, UID: svc.UID},
		Status:     svc.Status,
	}
	vips, given := svc.Annotations[kube.AnnotationVIPs]
	if given {
		status.Annotations = map[string]string{kube.AnnotationVIPs: vips}
	}
	if !given && len(svc.Status.LoadBalancer.Ingress) == 0 && len(svc.Status.Conditions) == 0 {
		return w.Delete(ctx, status)
	}
	return w.Update(ctx, status)
}

// Delete removes an object. Deleting what is absent succeeds.
func (w *Writer) Delete(_ context.Context, object kube.Object) error {
	path := pathOf(object)
	if err := os.Remove(filepath.Join(w.source.dir, path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete %s: %w", path, err)
	}
	w.source.forget(path)
	return nil
}

// write makes the file beside its place and moves it there whole.
func (w *Writer) write(path string, data []byte, move func(from, to string) error) error {
	target := filepath.Join(w.source.dir, path)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	temp, err := os.CreateTemp(filepath.Dir(target), ".unfinished-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(temp.Name()) // a rename leaves nothing to remove
	_, err = temp.Write(data)
	err = errors.Join(err, temp.Chmod(0o644), temp.Close())
	if err == nil {
		err = move(temp.Name(), target)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return w.source.learn(path)
}

// encode gives the file of an object. An underscore joins the names, because no name can have one.
func encode(object kube.Object) (path string, data []byte, err error) {
	path = pathOf(object)
	body, err := yaml.Marshal(object)
	if err != nil {
		return "", nil, fmt.Errorf("write %s: %w", path, err)
	}
	return path, append([]byte(header), body...), nil
}

func pathOf(object kube.Object) string {
	kind := strings.ToLower(object.GetObjectKind().GroupVersionKind().Kind)
	if _, ok := object.(*corev1.Service); ok {
		kind = "service-status"
	}
	return filepath.Join(controllerDir, fmt.Sprintf("%s-%s_%s.yaml", kind, object.GetNamespace(), object.GetName()))
}
