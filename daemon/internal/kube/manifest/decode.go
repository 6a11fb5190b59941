// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// Reasons of issues about files. They are stable, like those of package kube.
const (
	reasonInvalid      = "InvalidManifest"
	reasonUnreadable   = "UnreadableDirectory"
	reasonUnknownKind  = "UnknownKind"
	reasonUnknownField = "UnknownField"
	reasonDuplicate    = "DuplicateObject"
	reasonReserved     = "ReservedObject"
)

// decode reads all documents of a file. Errors come one for each document that cannot be read; issues are about
// documents that are used nevertheless, and about kinds that nobody here knows.
func decode(path string, data []byte) (objects []kube.Object, issues []lb.Issue, refused []error) {
	for _, doc := range split(data) {
		where := fmt.Sprintf("document %d (line %d)", doc.number, doc.line)
		text, err := yaml.YAMLToJSONStrict(doc.data)
		if err != nil {
			// Once more, with the lines counted from the file's first, as an editor does. For a few documents: the cost
			// grows with their place in the file.
			if len(refused) < 10 {
				_, err = yaml.YAMLToJSONStrict(append(bytes.Repeat([]byte("\n"), doc.line-1), doc.data...))
			}
			refused = append(refused, fmt.Errorf("%s: %w", where, err))
			continue
		}
		if string(text) == "null" { // only comments
			continue
		}
		more, found, err := decodeObject(text)
		if err != nil {
			refused = append(refused, fmt.Errorf("%s: %w", where, err))
			continue
		}
		objects = append(objects, more...)
		for _, f := range found {
			f.Object, f.Message = "File "+path, where+": "+f.Message
			issues = append(issues, f)
		}
	}
	return objects, issues, refused
}

// document is one YAML document of a file.
type document struct {
	number, line int // both from 1
	data         []byte
}

// split cuts a file at its document markers. A marker stands in the first column, where no content of a block can be.
func split(data []byte) []document {
	docs := []document{{number: 1, line: 1}}
	line := 0
	for text := range bytes.Lines(data) {
		line++
		rest, marked := bytes.CutPrefix(text, []byte("---"))
		if marked && (len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0) {
			docs = append(docs, document{number: len(docs) + 1, line: line})
			text = rest // content may follow the marker
		}
		last := &docs[len(docs)-1]
		last.data = append(last.data, text...)
	}
	if len(docs) > 1 && len(bytes.TrimSpace(docs[0].data)) == 0 { // a marker opens the file
		docs = docs[1:]
		for i := range docs {
			docs[i].number--
		}
	}
	return docs
}

// decodeObject reads one object, or the objects of a v1 List.
func decodeObject(text []byte) ([]kube.Object, []lb.Issue, error) {
	var head metav1.TypeMeta
	if err := json.Unmarshal(text, &head); err != nil {
		return nil, nil, fmt.Errorf("read apiVersion and kind: %w", err)
	}
	if head.APIVersion == "" || head.Kind == "" {
		return nil, nil, errors.New("apiVersion or kind is missing")
	}
	if head.APIVersion == "v1" && head.Kind == "List" {
		return decodeList(text)
	}
	object := newObject(head)
	if object == nil {
		return nil, []lb.Issue{{Reason: reasonUnknownKind, Message: fmt.Sprintf(
			"%s %s is not read here: remove it, or correct its apiVersion and kind", head.APIVersion, head.Kind)}}, nil
	}
	strict, err := kjson.UnmarshalStrict(text, object)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", head.Kind, err)
	}
	if err := complete(object); err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", head.Kind, err)
	}
	var issues []lb.Issue
	for _, err := range strict {
		issues = append(issues, lb.Issue{Reason: reasonUnknownField, Message: fmt.Sprintf(
			"%s %s/%s: %v: it has no effect: correct or remove it", head.Kind, object.GetNamespace(), object.GetName(), err)})
	}
	return []kube.Object{object}, issues, nil
}

func decodeList(text []byte) (objects []kube.Object, issues []lb.Issue, err error) {
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, nil, fmt.Errorf("read List: %w", err)
	}
	for i, item := range list.Items {
		more, found, err := decodeObject(item)
		if err != nil {
			return nil, nil, fmt.Errorf("items[%d]: %w", i, err)
		}
		objects, issues = append(objects, more...), append(issues, found...)
	}
	return objects, issues, nil
}

// newObject gives an empty object of a kind, or nil.
func newObject(head metav1.TypeMeta) kube.Object {
	switch head.APIVersion + " " + head.Kind {
	case "v1 Service":
		return &corev1.Service{}
	case "v1 Pod":
		return &corev1.Pod{}
	case "v1 Node":
		return &corev1.Node{}
	case "discovery.k8s.io/v1 EndpointSlice":
		return &discoveryv1.EndpointSlice{}
	case "coordination.k8s.io/v1 Lease":
		return &coordinationv1.Lease{}
	case "k8s.cni.cncf.io/v1 NetworkAttachmentDefinition":
		return &nadv1.NetworkAttachmentDefinition{}
	}
	return nil
}

// complete checks an object's name and sets what an API server and a kubelet would.
func complete(object kube.Object) error {
	if node, ok := object.(*corev1.Node); ok {
		return completeNode(node)
	}
	if object.GetNamespace() == "" {
		object.SetNamespace(metav1.NamespaceDefault)
	}
	if problems := validation.IsDNS1123Label(object.GetNamespace()); len(problems) > 0 {
		return fmt.Errorf("metadata.namespace %q: %s", object.GetNamespace(), problems[0])
	}
	if problems := validation.IsDNS1123Subdomain(object.GetName()); len(problems) > 0 {
		return fmt.Errorf("metadata.name %q: %s", object.GetName(), problems[0])
	}
	switch object := object.(type) {
	case *corev1.Service:
		if problems := validation.IsDNS1123Label(object.Name); len(problems) > 0 {
			return fmt.Errorf("metadata.name %q: %s", object.Name, problems[0])
		}
	case *corev1.Pod:
		// Nobody probes the pods of files: a Pod that says nothing of its state runs and is ready.
		if object.Status.Phase == "" && len(object.Status.Conditions) == 0 {
			object.Status.Phase = corev1.PodRunning
			object.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
	}
	return nil
}

// completeNode does the same for a Node, which has no namespace. Nobody watches over the nodes of files: one that says
// nothing of its state is ready.
func completeNode(node *corev1.Node) error {
	if node.Namespace != "" {
		return errors.New("metadata.namespace: a Node has none: remove it")
	}
	if problems := validation.IsDNS1123Subdomain(node.Name); len(problems) > 0 {
		return fmt.Errorf("metadata.name %q: %s", node.Name, problems[0])
	}
	if len(node.Status.Conditions) == 0 {
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	}
	return nil
}
