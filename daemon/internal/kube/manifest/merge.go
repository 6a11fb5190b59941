// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// merger joins the files. The first file by name that gives an object wins; the controller's directory counts for
// itself.
type merger struct {
	out      kube.Objects
	givenBy  map[string]string // kind namespace/name → path
	statuses map[types.NamespacedName]*corev1.Service
}

func merge(files map[string]*file) kube.Objects {
	m := merger{givenBy: map[string]string{}, statuses: map[types.NamespacedName]*corev1.Service{}}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		f := files[path]
		m.out.Issues = append(append(m.out.Issues, f.issues...), f.refused...)
		for _, object := range f.objects {
			m.add(path, object)
		}
	}
	for i, svc := range m.out.Services {
		m.out.Services[i] = m.withStatus(svc)
	}
	m.out.Orphans = slices.AppendSeq(m.out.Orphans, maps.Keys(m.statuses))
	m.out.Sort()
	return m.out
}

func (m *merger) add(path string, object kube.Object) {
	byController := strings.HasPrefix(path, controllerDir+"/")
	switch reserved := isReserved(object, byController); {
	case reserved && !byController:
		m.refuse(path, reasonReserved, object, "only the controller writes such an object: remove it")
		return
	case !reserved && byController:
		m.refuse(path, reasonReserved, object, "%s/ is the controller's directory: move the file up", controllerDir)
		return
	}
	if first, given := m.claim(path, object, byController); given {
		m.refuse(path, reasonDuplicate, object, "%s gives it too, and is used: remove one", first)
		return
	}
	switch object := object.(type) {
	case *corev1.Service:
		if byController {
			m.statuses[nameOf(object)] = object
			return
		}
		m.out.Services = append(m.out.Services, object)
	case *corev1.Pod:
		m.out.Pods = append(m.out.Pods, object)
	case *nadv1.NetworkAttachmentDefinition:
		m.out.Networks = append(m.out.Networks, object)
	case *discoveryv1.EndpointSlice:
		m.out.Slices = append(m.out.Slices, object)
	case *coordinationv1.Lease:
		m.out.Leases = append(m.out.Leases, object)
	case *corev1.Node:
		m.out.Nodes = append(m.out.Nodes, object)
	}
}

// isReserved tells whether the controller alone writes such an object.
func isReserved(object kube.Object, byController bool) bool {
	switch object := object.(type) {
	case *discoveryv1.EndpointSlice:
		return kube.OwnSlice(object)
	case *coordinationv1.Lease:
		return object.Labels[kube.LabelClaim] == "true"
	case *corev1.Service:
		return byController // there it is a status
	}
	return false
}

// claim takes an object's name for a file, unless an earlier file has it.
func (m *merger) claim(path string, object kube.Object, byController bool) (first string, given bool) {
	key := fmt.Sprintf("%T %s %t", object, nameOf(object), byController)
	if first, given := m.givenBy[key]; given {
		return first, true
	}
	m.givenBy[key] = path
	return "", false
}

func (m *merger) refuse(path, reason string, object kube.Object, format string, args ...any) {
	m.out.Issues = append(m.out.Issues, lb.Issue{
		Object: "File " + path, Reason: reason,
		Message: fmt.Sprintf("%s %s: ", object.GetObjectKind().GroupVersionKind().Kind, nameOf(object)) +
			fmt.Sprintf(format, args...),
	})
}

// withStatus gives a user's Service the status that the controller wrote, and no other: as the API server does, it
// drops a status that came with the object, and what only the controller may say.
func (m *merger) withStatus(svc *corev1.Service) *corev1.Service {
	out := svc.DeepCopy()
	out.Status = corev1.ServiceStatus{}
	delete(out.Annotations, kube.AnnotationVIPs)
	status, ok := m.statuses[nameOf(svc)]
	if !ok || status.UID != svc.UID {
		return out
	}
	delete(m.statuses, nameOf(svc))
	out.Status = *status.Status.DeepCopy()
	if vips, ok := status.Annotations[kube.AnnotationVIPs]; ok {
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations[kube.AnnotationVIPs] = vips
	}
	return out
}

func nameOf(object kube.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}
}
