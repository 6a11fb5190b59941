// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/sluice-lb/sluice/integration/lab"
)

// nads is the resource of the CRD.
var nads = schema.GroupVersionResource{
	Group: "k8s.cni.cncf.io", Version: "v1", Resource: "network-attachment-definitions",
}

// Who writes, as managedFields name it.
const (
	asUser    = "user"
	asKubelet = "kubelet"
)

// objects is the lab.Objects that are an API server's.
type objects struct {
	client kubernetes.Interface
	dyn    dynamic.Interface
	mapper *restmapper.DeferredDiscoveryRESTMapper
	lab    *lab.Lab

	statuses statuses // of pods

	mu      sync.Mutex
	applied map[string][]reference // by the manifest's name; guarded by mu
}

// reference names an object.
type reference struct {
	resource        schema.GroupVersionResource
	namespace, name string
}

func newObjects(config *rest.Config, client kubernetes.Interface, l *lab.Lab) (*objects, error) {
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make the client: %w", err)
	}
	return &objects{
		client: client, dyn: dyn, lab: l, applied: map[string][]reference{},
		mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery())),
	}, nil
}

// installNADs applies the CRD, and waits until the API server serves it.
func (s *Server) installNADs(ctx context.Context) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	manifest, err := os.ReadFile(filepath.Join(root, "deploy", "crds", "network-attachment-definitions.yaml"))
	if err != nil {
		return fmt.Errorf("read the CRD: %w", err)
	}
	if err := s.objects.Apply("crd.yaml", manifest); err != nil {
		return err
	}
	return lab.Until(ctx, startLimit, "NADs are served", func(ctx context.Context) error {
		_, err := s.objects.dyn.Resource(nads).List(ctx, metav1.ListOptions{Limit: 1})
		return err
	})
}

// Apply is lab.Objects'. Objects without a namespace that belong into one go to default.
func (o *objects) Apply(name string, manifest []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	o.mu.Lock()
	defer o.mu.Unlock()
	refs, err := o.applyAll(ctx, manifest)
	gone := slices.DeleteFunc(o.applied[name], func(r reference) bool { return slices.Contains(refs, r) })
	if err == nil {
		err = o.removeAll(ctx, gone)
	}
	if err != nil {
		o.applied[name] = append(refs, gone...) // so that Remove finds them
		return fmt.Errorf("apply manifest %q: %w", name, err)
	}
	o.applied[name] = refs
	return nil
}

// applyAll applies the objects of a manifest, and names those that it has come to.
func (o *objects) applyAll(ctx context.Context, manifest []byte) ([]reference, error) {
	var refs []reference
	docs := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifest), 4096)
	for {
		var doc runtime.RawExtension
		err := docs.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return refs, nil
		}
		if err != nil {
			return refs, err
		}
		if len(doc.Raw) == 0 { // nothing but comments
			continue
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(doc.Raw); err != nil {
			return refs, err
		}
		ref, err := o.apply(ctx, object)
		if err != nil {
			return refs, err
		}
		refs = append(refs, ref)
	}
}

// apply is server-side apply of one object.
func (o *objects) apply(ctx context.Context, object *unstructured.Unstructured) (reference, error) {
	kind := object.GroupVersionKind()
	mapping, err := o.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) { // a CRD may have come since the mapper looked
		o.mapper.Reset()
		mapping, err = o.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	}
	if err != nil {
		return reference{}, fmt.Errorf("find the resource of %s %q: %w", kind.Kind, object.GetName(), err)
	}
	if object.GetNamespace() == "" && mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		object.SetNamespace(metav1.NamespaceDefault)
	}
	ref := reference{mapping.Resource, object.GetNamespace(), object.GetName()}
	_, err = o.at(ref).Apply(ctx, ref.name, object, metav1.ApplyOptions{FieldManager: asUser, Force: true})
	return ref, err
}

// at is where an object is, or goes.
func (o *objects) at(r reference) dynamic.ResourceInterface {
	if r.namespace == "" {
		return o.dyn.Resource(r.resource)
	}
	return o.dyn.Resource(r.resource).Namespace(r.namespace)
}

// Remove is lab.Objects'.
func (o *objects) Remove(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.removeAll(ctx, o.applied[name]); err != nil {
		return fmt.Errorf("remove manifest %q: %w", name, err)
	}
	delete(o.applied, name)
	return nil
}

func (o *objects) removeAll(ctx context.Context, refs []reference) error {
	var errs []error
	for _, ref := range refs {
		if err := o.at(ref).Delete(ctx, ref.name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// NAD is lab.Objects'.
func (o *objects) NAD(namespace, name string) (*nadv1.NetworkAttachmentDefinition, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	object, err := o.dyn.Resource(nads).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read NAD %s/%s: %w", namespace, name, err)
	}
	nad := &nadv1.NetworkAttachmentDefinition{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, nad); err != nil {
		return nil, fmt.Errorf("read NAD %s/%s: %w", namespace, name, err)
	}
	return nad, nil
}
