// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

const (
	deploy    = "../../deploy"
	namespace = "sluice-system"
)

// kubernetes is the version that charts are rendered for.
var kubernetes = chartutil.KubeVersion{Version: "v1.36.3", Major: "1", Minor: "36"}

func TestTheRenderedManifestIsFresh(t *testing.T) {
	if err := run(deploy, true); err != nil {
		t.Error(err)
	}
}

// variants are the overlays, and the values by which the chart gives the same.
var variants = map[string]string{
	"plain":     ``,
	"openshift": `{openshift: {enabled: true}, cni: {binDir: /var/lib/cni/bin}}`,
	"k3s": `{cni: {containerdConfig: /var/lib/rancher/k3s/agent/etc/containerd/config.toml,
		hostDir: /var/lib/rancher/k3s}}`,
}

func TestTheChartGivesWhatTheOverlaysGive(t *testing.T) {
	for overlay, values := range variants {
		t.Run(overlay, func(t *testing.T) {
			manifest, err := build(filepath.Join(deploy, "overlays", overlay))
			if err != nil {
				t.Fatal(err)
			}
			want := mustObjects(t, manifest)
			delete(want, "Namespace /"+namespace) // Helm wants it to be there before
			got := mustObjects(t, mustTemplate(t, values))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("chart and overlay differ (-overlay +chart):\n%s", diff)
			}
		})
	}
}

func TestEveryValueOfTheChartIsUsed(t *testing.T) {
	manifest := string(mustTemplate(t, `
image: {repository: example.org/sluice, tag: v9, pullPolicy: Always}
imagePullSecrets: [{name: secret}]
loadBalancerClasses: [class/one, class/two]
networkAnnotations: [annotation/one, annotation/two]
logLevel: debug
logFormat: json
cni: {binDir: /somewhere}
agent:
  metrics: {host: "", port: 7001}
  attach: clsact
  noBackends: drop
  extraArgs: ["--node-name=x: y"]
  priorityClassName: agents
  maxUnavailable: 10%
  nodeSelector: {agents: here}
  tolerations: [{key: agents}]
  resources: {limits: {memory: 77Mi}}
controller:
  replicas: 5
  metrics: {port: 7002}
  extraArgs: [--extra]
  priorityClassName: controllers
  nodeSelector: {controllers: here}
  tolerations: [{key: controllers}]
  resources: {limits: {memory: 88Mi}}
`))
	mustObjects(t, []byte(manifest))
	for text, times := range map[string]int{
		"image: example.org/sluice:v9\n": 3, "imagePullPolicy: Always": 3, "name: secret": 2,
		"- --load-balancer-class=class/one\n": 2, "- --load-balancer-class=class/two\n": 2,
		"- --network-annotation=annotation/one\n": 2, "- --network-annotation=annotation/two\n": 2,
		"- --log-level=debug\n": 2, "- --log-format=json\n": 2,
		"- --to=/somewhere\n": 1, "mountPath: /somewhere": 1, "{path: /somewhere, type: DirectoryOrCreate}": 1,
		"- --metrics-address=:7001\n": 1, "{host: 127.0.0.1, port: 7001, path: /healthz}": 2, "- --attach=clsact\n": 1,
		"- --no-backends=drop\n": 1, `- "--node-name=x: y"`: 1, "priorityClassName: agents": 1, "{maxUnavailable: 10%}": 1,
		"agents: here": 1, "key: agents": 1, "memory: 77Mi": 1,
		"replicas: 5": 1, "- --metrics-address=:7002\n": 1, "containerPort: 7002": 1, `- "--extra"`: 1,
		"priorityClassName: controllers": 1, "controllers: here": 1, "key: controllers": 1, "memory: 88Mi": 1,
	} {
		if got := strings.Count(manifest, text); got != times {
			t.Errorf("%q is there %d times, want %d", text, got, times)
		}
	}
	if t.Failed() {
		t.Log(manifest)
	}
}

func TestValuesThatMeanNothingAreRefused(t *testing.T) {
	for values, want := range map[string]string{
		`{agent: {metricsPort: 1}}`:                       "metricsPort",
		`{logLevel: loud}`:                                "logLevel",
		`{controller: {metrics: {port: 70000}}}`:          "port",
		`{cni: {binDir: bin}}`:                            "binDir",
		`{cni: {containerdConfig: /etc/containerd.toml}}`: "cni.containerdConfig needs cni.hostDir",
	} {
		if _, err := template(values, namespace); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", values, err, want)
		}
	}
	if _, err := template("", "default"); err == nil || !strings.Contains(err.Error(), "--namespace sluice-system") {
		t.Errorf("another namespace: got %v", err)
	}
}

func TestTheChartIsLintedClean(t *testing.T) {
	linter := lint.AllWithKubeVersion(filepath.Join(deploy, "chart"), nil, namespace, &kubernetes)
	linted := false
	for _, message := range linter.Messages {
		if strings.Contains(message.Err.Error(), "icon is recommended") {
			linted = true // which it says of a chart that it has read
			continue
		}
		t.Error(message)
	}
	if !linted {
		t.Error("nothing was linted")
	}
}

// template does what `helm template --namespace NAMESPACE` does, with values in YAML.
func template(values, namespace string) ([]byte, error) {
	chart, err := loader.Load(filepath.Join(deploy, "chart"))
	if err != nil {
		return nil, err
	}
	given, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		return nil, err
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = kubernetes
	release := chartutil.ReleaseOptions{Name: "sluice", Namespace: namespace, Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(chart, given, release, capabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for name, content := range files {
		if path.Ext(name) == ".yaml" {
			fmt.Fprintf(&out, "---\n%s\n", content)
		}
	}
	return out.Bytes(), nil
}

func mustTemplate(t *testing.T, values string) []byte {
	t.Helper()
	manifest, err := template(values, namespace)
	if err != nil {
		t.Fatal(err)
	}
	return manifest
}

// mustObjects reads a manifest: "Kind namespace/name" to the object. What the API would not take fails the test.
func mustObjects(t *testing.T, manifest []byte) map[string]any {
	t.Helper()
	strict := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	out := map[string]any{}
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(manifest)))
	for {
		text, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		var object map[string]any
		if err := yaml.UnmarshalStrict(text, &object); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if object == nil {
			continue // comments only
		}
		// OpenShift's own kind is not among the API's types.
		if _, _, err := strict.Decode(text, nil, nil); err != nil && !(runtime.IsNotRegisteredError(err) &&
			object["kind"] == "SecurityContextConstraints") {
			t.Errorf("%v in\n%s", err, text)
		}
		meta := object["metadata"].(map[string]any)
		inNamespace, _ := meta["namespace"].(string)
		key := fmt.Sprintf("%s %s/%s", object["kind"], inNamespace, meta["name"])
		if _, twice := out[key]; twice {
			t.Errorf("%s is there twice", key)
		}
		out[key] = object
	}
}
