// SPDX-License-Identifier: Apache-2.0

// Package deploy owns the tests of what is applied to clusters: that the API's types know every field of it.
package deploy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

// notApplied are files that are no objects of a cluster. What they lead to is tested in hack/render.
var notApplied = []string{"kustomization.yaml", "Chart.yaml", "values.yaml"}

// untyped are kinds whose types are in other modules. The lane kube gives the CustomResourceDefinition to a real API server.
var untyped = regexp.MustCompile(`(?m)^kind: (SecurityContextConstraints|CustomResourceDefinition)$`)

// files gives the manifests of a directory and those below.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && entry.Name() == "templates" {
			return fs.SkipDir
		}
		if err == nil && filepath.Ext(path) == ".yaml" && !slices.Contains(notApplied, entry.Name()) {
			out = append(out, path)
		}
		return err
	})
	if err != nil || len(out) == 0 {
		t.Fatalf("%d manifests in %s: %v", len(out), dir, err)
	}
	return out
}

// objects reads a manifest. What the API's types do not know fails the test.
func objects(t *testing.T, path string) []runtime.Object {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	known := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(known), nadv1.AddToScheme(known)); err != nil {
		t.Fatal(err)
	}
	strict := serializer.NewCodecFactory(known, serializer.EnableStrict).UniversalDeserializer()
	var out []runtime.Object
	read := 0
	for reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content))); ; {
		text, err := reader.Read()
		if errors.Is(err, io.EOF) {
			if read == 0 {
				t.Errorf("%s holds no object", path)
			}
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		read++
		object, _, err := strict.Decode(text, nil, nil)
		if runtime.IsNotRegisteredError(err) && untyped.Match(text) {
			continue
		}
		if err != nil {
			t.Errorf("%s: %v in\n%s", path, err, text)
			continue
		}
		out = append(out, object)
	}
}

func TestTheAPIKnowsEveryFieldOfEveryManifest(t *testing.T) {
	for _, dir := range []string{".", "../netconf-examples"} {
		for _, path := range files(t, dir) {
			objects(t, path)
		}
	}
}

// podSpecs are those of the rendered manifest, by component.
func podSpecs(t *testing.T) map[string]corev1.PodSpec {
	t.Helper()
	out := map[string]corev1.PodSpec{}
	for _, object := range objects(t, "sluice.yaml") {
		switch object := object.(type) {
		case *appsv1.DaemonSet:
			out[object.Name] = object.Spec.Template.Spec
		case *appsv1.Deployment:
			out[object.Name] = object.Spec.Template.Spec
		}
	}
	return out
}

func TestContainersMayDoNoMoreThanIsSaid(t *testing.T) {
	specs := podSpecs(t)
	want := map[string][]corev1.Capability{
		"install-plugin": {"DAC_OVERRIDE"}, "agent": {"NET_ADMIN", "NET_RAW", "SYS_ADMIN"}, "controller": nil,
	}
	for name, spec := range specs {
		if pod := spec.SecurityContext; pod == nil || pod.SeccompProfile == nil ||
			pod.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s has no seccomp profile", name)
		}
		if spec.HostPID || spec.HostIPC {
			t.Errorf("%s shares more of the host than its network", name)
		}
		for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
			capabilities, expected := want[c.Name]
			if !expected {
				t.Errorf("%s: nobody expects a container %s", name, c.Name)
				continue
			}
			delete(want, c.Name)
			may := c.SecurityContext
			if !*may.ReadOnlyRootFilesystem || *may.AllowPrivilegeEscalation || may.Privileged != nil ||
				!slices.Equal(may.Capabilities.Drop, []corev1.Capability{"ALL"}) || !slices.Equal(may.Capabilities.Add, capabilities) {
				t.Errorf("%s may do more than is said: %v", c.Name, may)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("there is no container %v", want)
	}
	if controller := specs["sluice-controller"]; controller.HostNetwork || !*controller.SecurityContext.RunAsNonRoot ||
		len(controller.Volumes) > 0 {
		t.Error("the controller has to do with the host")
	}
}
