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

// kept is an object of a kind that the controller keeps, with the ways to write it.
type kept interface {
	create(ctx context.Context) error
	update(ctx context.Context) error
	remove(ctx context.Context) error
}

// entry is a kept object of one kind.
type entry[T kube.Object] struct {
	object T
	client writer[T]
	table  *table[T]
}

func (s *Store) keep(object kube.Object) (kept, error) {
	switch object := object.(type) {
	case *coordinationv1.Lease:
		client := s.client.kube.CoordinationV1().Leases(object.Namespace)
		return entry[*coordinationv1.Lease]{object, client, s.source.leases}, nil
	case *discoveryv1.EndpointSlice:
		client := s.client.kube.DiscoveryV1().EndpointSlices(object.Namespace)
		return entry[*discoveryv1.EndpointSlice]{object, client, s.source.slices}, nil
	}
	return nil, fmt.Errorf("store a %T: the controller has none", object)
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
	k, err := s.keep(object)
	if err != nil {
		return err
	}
	return s.request(ctx, k.create)
}

func (e entry[T]) create(ctx context.Context) error {
	made, err := e.client.Create(ctx, e.object, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("%w: %w", fs.ErrExist, err)
	}
	if err == nil {
		e.table.wrote(made)
	}
	return err
}

// CreatePeerKeys makes the Secret with the keys that nodes know each other by, unless there is one. Nobody reads it here: the
// controller has no right to.
func (s *Store) CreatePeerKeys(ctx context.Context, files map[string][]byte) (made bool, err error) {
	err = s.request(ctx, func(ctx context.Context) error {
		_, err := s.client.kube.CoreV1().Secrets(kube.Namespace).Create(ctx, kube.NewPeerKeys(files), metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create Secret %s/%s, by whose key nodes know each other: %w", kube.Namespace, kube.PeerKeysSecret, err)
		}
		made = err == nil
		return nil
	})
	return made, err
}

// Update replaces an object, if its resource version is still the one that is given.
func (s *Store) Update(ctx context.Context, object kube.Object) error {
	k, err := s.keep(object)
	if err != nil {
		return err
	}
	return s.request(ctx, k.update)
}

func (e entry[T]) update(ctx context.Context) error {
	made, err := e.client.Update(ctx, e.object, metav1.UpdateOptions{})
	if err == nil {
		e.table.wrote(made)
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
	k, err := s.keep(object)
	if err != nil {
		return err
	}
	return s.request(ctx, k.remove)
}

func (e entry[T]) remove(ctx context.Context) error {
	uid, version := e.object.GetUID(), e.object.GetResourceVersion()
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}}
	if err := e.client.Delete(ctx, e.object.GetName(), options); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	e.table.removed(e.object)
	return nil
}
