// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"log/slog"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// Limits of the events about one object from one process: a burst, and then one in so many seconds. Equal ones are counted
// in one object by client-go.
const (
	eventBurst  = 25
	eventPeriod = 60
)

// Events records events on objects. Writing them is a best effort: they never hold anything up.
type Events struct {
	source      *Source
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
	logger      *slog.Logger
}

// NewEvents makes a recorder. The component and host say who writes: "sluice-agent", and the node's name.
func NewEvents(c *Client, source *Source, component, host string, logger *slog.Logger) *Events {
	broadcaster := record.NewBroadcasterWithCorrelatorOptions(record.CorrelatorOptions{
		BurstSize: eventBurst, QPS: 1.0 / eventPeriod,
	})
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.kube.CoreV1().Events(metav1.NamespaceAll)})
	return &Events{
		source: source, broadcaster: broadcaster, logger: logger,
		recorder: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component, Host: host}),
	}
}

// Close ends the recording. What is still waiting is lost.
func (e *Events) Close() { e.broadcaster.Shutdown() }

// Warn records a Warning on an object, named as issues name it: "Service namespace/name".
func (e *Events) Warn(object, reason, message string) {
	e.record(object, corev1.EventTypeWarning, reason, message)
}

// Tell records a Normal event.
func (e *Events) Tell(object, reason, message string) {
	e.record(object, corev1.EventTypeNormal, reason, message)
}

// maxMessage is the API's limit for an event's message, in octets (core/v1 validation).
const maxMessage = 1024

func (e *Events) record(object, kind, reason, message string) {
	target, ok := e.source.object(object)
	if !ok {
		e.logger.Debug("no object for an event", "object", object, "reason", reason, "message", message)
		return
	}
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage-3], "") + "..."
	}
	e.recorder.Event(target, kind, reason, message)
}

// object finds what an issue names: "Kind namespace/name", or "Node name".
func (s *Source) object(text string) (*corev1.ObjectReference, bool) {
	kind, name, _ := strings.Cut(text, " ")
	key := types.NamespacedName{Name: name}
	if namespace, rest, ok := strings.Cut(name, "/"); ok {
		key = types.NamespacedName{Namespace: namespace, Name: rest}
	}
	var object kube.Object
	var ok bool
	ref := &corev1.ObjectReference{Kind: kind, APIVersion: "v1", Namespace: key.Namespace, Name: key.Name}
	switch kind {
	case "Service":
		object, ok = s.services.find(key)
	case "Node":
		object, ok = s.nodes.find(key)
	case "NetworkAttachmentDefinition":
		ref.APIVersion = nadv1.SchemeGroupVersion.String()
		object, ok = s.networks.find(key)
	case "EndpointSlice":
		ref.APIVersion = discoveryv1.SchemeGroupVersion.String()
		object, ok = s.slices.find(key)
	case "Lease":
		ref.APIVersion = coordinationv1.SchemeGroupVersion.String()
		object, ok = s.leases.find(key)
	case "Pod":
		if object, ok = s.pods.find(key); !ok { // agents do not watch pods
			return ref, key.Namespace != ""
		}
	}
	if !ok {
		return nil, false
	}
	ref.UID, ref.ResourceVersion = object.GetUID(), object.GetResourceVersion()
	return ref, true
}
