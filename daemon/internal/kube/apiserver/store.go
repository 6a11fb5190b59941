// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"io/fs"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// Store keeps the controller's objects in the API server. Updates and deletions succeed only if the object is still as it
// was read, so what a former leader writes late does no harm. The Source knows each write at once.
type Store struct {
	client *Client
	source *Source
	may    func() error
}

// NewStore makes a Store. Before each write it asks may, whose error it returns instead of writing: nobody writes who has
// lost the lead.
func NewStore(c *Client, source *Source, may func() error) *Store {
	return &Store{client: c, source: source, may: may}
}

// writer is what the typed clients have in common.
type writer[T any] interface {
	Create(ctx context.Context, object T, options metav1.CreateOptions) (T, error)
	Update(ctx context.Context, object T, options metav1.UpdateOptions) (T, error)
	Delete(ctx context.Context, name string, options metav1.DeleteOptions) error
}

func (s *Store) leases(object metav1.Object) writer[*coordinationv1.Lease] {
	return s.client.kube.CoordinationV1().Leases(object.GetNamespace())
}

func (s *Store) slices(object metav1.Object) writer[*discoveryv1.EndpointSlice] {
	return s.client.kube.DiscoveryV1().EndpointSlices(object.GetNamespace())
}

// request does one write, if that is allowed.
func (s *Store) request(ctx context.Context, write func(context.Context) error) error {
	if err := s.may(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	return write(ctx)
}

// Create stores a new object. If one of that name exists, errors.Is(err, fs.ErrExist) holds.
func (s *Store) Create(ctx context.Context, object kube.Object) error {
	return s.request(ctx, func(ctx context.Context) error {
		switch object := object.(type) {
		case *coordinationv1.Lease:
			return create(ctx, s.leases(object), s.source.leases, object)
		case *discoveryv1.EndpointSlice:
			return create(ctx, s.slices(object), s.source.slices, object)
		}
		return unknown(object)
	})
}

func create[T kube.Object](ctx context.Context, client writer[T], t *table[T], object T) error {
	made, err := client.Create(ctx, object, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("%w: %w", fs.ErrExist, err)
	}
	if err == nil {
		t.wrote(made)
	}
	return err
}

// Update replaces an object, if its resource version is still the one that is given.
func (s *Store) Update(ctx context.Context, object kube.Object) error {
	return s.request(ctx, func(ctx context.Context) error {
		switch object := object.(type) {
		case *coordinationv1.Lease:
			return update(ctx, s.leases(object), s.source.leases, object)
		case *discoveryv1.EndpointSlice:
			return update(ctx, s.slices(object), s.source.slices, object)
		}
		return unknown(object)
	})
}

func update[T kube.Object](ctx context.Context, client writer[T], t *table[T], object T) error {
	made, err := client.Update(ctx, object, metav1.UpdateOptions{})
	if err == nil {
		t.wrote(made)
	}
	return err
}

// UpdateServiceStatus writes a Service's status and annotations through the status subresource, which leaves the spec alone,
// if its resource version is still the one that is given.
func (s *Store) UpdateServiceStatus(ctx context.Context, svc *corev1.Service) error {
	return s.request(ctx, func(ctx context.Context) error {
		made, err := s.client.kube.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, svc, metav1.UpdateOptions{})
		if err == nil {
			s.source.services.wrote(made)
		}
		return err
	})
}

// Delete removes an object, if its UID and resource version are still those that are given. Deleting what is absent succeeds.
func (s *Store) Delete(ctx context.Context, object kube.Object) error {
	return s.request(ctx, func(ctx context.Context) error {
		switch object := object.(type) {
		case *coordinationv1.Lease:
			return remove(ctx, s.leases(object), s.source.leases, object)
		case *discoveryv1.EndpointSlice:
			return remove(ctx, s.slices(object), s.source.slices, object)
		}
		return unknown(object)
	})
}

func remove[T kube.Object](ctx context.Context, client writer[T], t *table[T], object T) error {
	uid, version := object.GetUID(), object.GetResourceVersion()
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}}
	if err := client.Delete(ctx, object.GetName(), options); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	t.removed(object)
	return nil
}

func unknown(object kube.Object) error {
	return fmt.Errorf("store a %T: the controller has none", object)
}
