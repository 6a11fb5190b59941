// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// service gives the manifest of a Service whose port tells its version.
func service(name string, port int) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {ports: [{port: %d}]}\n", name, port)
}

func mustOpen(t *testing.T, dir string) *Source {
	t.Helper()
	s, err := Open(dir, slog.New(slog.DiscardHandler), func() {})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustWrite(t *testing.T, dir, name, data string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

// describe lists the Services with their ports, the number of other objects, and the issues.
func describe(o kube.Objects) string {
	var words []string
	for _, svc := range o.Services {
		words = append(words, fmt.Sprintf("%s/%s:%d", svc.Namespace, svc.Name, svc.Spec.Ports[0].Port))
	}
	for kind, n := range map[string]int{"pods": len(o.Pods), "networks": len(o.Networks)} {
		if n > 0 {
			words = append(words, fmt.Sprintf("%s=%d", kind, n))
		}
	}
	lines := []string{strings.Join(words, " ")}
	for _, issue := range o.Issues {
		lines = append(lines, issue.String())
	}
	return strings.Join(lines, "\n")
}

func TestFilesAreRead(t *testing.T) {
	const keep = ": the last good version of the file stays in force: correct the file, or remove it"
	const use = ": what can be read of the file is used: correct the file"
	list := `{"apiVersion": "v1", "kind": "List", "items": [
		{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 1}]}},
		{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}]}`
	tests := map[string]struct {
		first, then map[string]string // a file with no text is removed
		want        string
	}{
		"several documents": {
			first: map[string]string{
				"a.yaml": "# comment\n---\n" + service("a", 1) + "---\n---  \n" + service("b", 2) + "---\n# end\n",
			},
			want: "default/a:1 default/b:2",
		},
		"content behind the marker": {
			first: map[string]string{
				"a.yaml": "--- {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1}]}}\n",
			},
			want: "default/a:1",
		},
		"other suffixes, and files that are nobody's": {
			first: map[string]string{
				"a.yml": service("a", 1), "b.json": list,
				".c.yaml": "x: [", "d.yaml~": "x: [", "e.txt": "x: [", "sub/f.yaml": "x: [",
			},
			want: "default/a:1 pods=1\n" +
				"File b.json: DuplicateObject: Service default/a: a.yml gives it too, and is used: remove one",
		},
		"a list": {first: map[string]string{"a.yaml": list}, want: "default/a:1 pods=1"},
		"windows line ends": {
			first: map[string]string{
				"a.yaml": strings.ReplaceAll(service("a", 1)+"---\n"+service("b", 2), "\n", "\r\n"),
			},
			want: "default/a:1 default/b:2",
		},
		"the first file of two that give an object": {
			first: map[string]string{"b.yaml": service("a", 2), "a.yaml": service("a", 1)},
			want:  "default/a:1\nFile b.yaml: DuplicateObject: Service default/a: a.yaml gives it too, and is used: remove one",
		},
		"and the other when the first goes": {
			first: map[string]string{"b.yaml": service("a", 2), "a.yaml": service("a", 1)},
			then:  map[string]string{"a.yaml": ""},
			want:  "default/a:2",
		},
		"an unknown kind": {
			first: map[string]string{
				"a.yaml": service("a", 1) + "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n",
			},
			want: "default/a:1\nFile a.yaml: UnknownKind: document 2 (line 5): apps/v1 Deployment is not read here: " +
				"remove it, or correct its apiVersion and kind",
		},
		"an unknown field": {
			first: map[string]string{"a.yaml": service("a", 1) + "  # comment\nspeck: {}\n"},
			want: "default/a:1\nFile a.yaml: UnknownField: document 1 (line 1): Service default/a: unknown field \"speck\": " +
				"it has no effect: correct or remove it",
		},
		"a broken file that was good": {
			first: map[string]string{"a.yaml": service("a", 1), "b.yaml": service("b", 1)},
			then:  map[string]string{"a.yaml": service("a", 2) + "---\nx: [", "b.yaml": service("b", 2)},
			want: "default/a:1 default/b:2\nFile a.yaml: InvalidManifest: document 2 (line 5): " +
				"yaml: line 6: did not find expected node content" + keep,
		},
		"a broken file that never was good": {
			first: map[string]string{"a.yaml": service("a", 1) + "---\nkind: Service\n"},
			want:  "default/a:1\nFile a.yaml: InvalidManifest: document 2 (line 5): apiVersion or kind is missing" + use,
		},
		"a file that became empty": {
			first: map[string]string{"a.yaml": service("a", 1)},
			then:  map[string]string{"a.yaml": "\n"},
			want:  "default/a:1\nFile a.yaml: InvalidManifest: the file is empty" + keep,
		},
		"a file that was removed": {
			first: map[string]string{"a.yaml": service("a", 1), "b.yaml": service("b", 1)},
			then:  map[string]string{"a.yaml": ""},
			want:  "default/b:1",
		},
		"a name that is none": {
			first: map[string]string{"a.yaml": service("../../etc/passwd", 1)},
			want: "\nFile a.yaml: InvalidManifest: document 1 (line 1): read Service: metadata.name \"../../etc/passwd\": " +
				"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start " +
				"and end with an alphanumeric character (e.g. 'example.com', regex used for validation is " +
				"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')" + use,
		},
		"a wrong type": {
			first: map[string]string{"a.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: 3}\n"},
			want: "\nFile a.yaml: InvalidManifest: document 1 (line 1): read Service: json: cannot unmarshal number into " +
				"Go struct field ServiceSpec.spec.ports of type []v1.ServicePort" + use,
		},
		"a key twice": {
			first: map[string]string{"a.yaml": service("a", 1) + "kind: Pod\n"},
			want: "\nFile a.yaml: InvalidManifest: document 1 (line 1): yaml: unmarshal errors:\n" +
				"  line 5: key \"kind\" already set in map" + use,
		},
		"what the controller alone may write": {
			first: map[string]string{
				"a.yaml": "apiVersion: coordination.k8s.io/v1\nkind: Lease\n" +
					"metadata: {name: l, labels: {sluice-lb.io/claim: \"true\"}}\n",
				"b.yaml": "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nendpoints: []\n" +
					"metadata: {name: s, labels: {endpointslice.kubernetes.io/managed-by: sluice-lb.io}}\n",
				"controller/c.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n",
			},
			want: "\nFile a.yaml: ReservedObject: Lease default/l: only the controller writes such an object: remove it" +
				"\nFile b.yaml: ReservedObject: EndpointSlice default/s: only the controller writes such an object: remove it" +
				"\nFile controller/c.yaml: ReservedObject: Pod default/p: controller/ is the controller's directory: " +
				"move the file up",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range tc.first {
				mustWrite(t, dir, name, data)
			}
			s := mustOpen(t, dir)
			for name, data := range tc.then {
				if data == "" {
					if err := os.Remove(filepath.Join(dir, name)); err != nil {
						t.Fatal(err)
					}
					continue
				}
				mustWrite(t, dir, name, data)
			}
			if tc.then != nil {
				touched := map[string]bool{}
				for name := range tc.then {
					touched[name] = true
				}
				if changed, _ := s.reload(touched); !changed {
					t.Error("reload tells of no change")
				}
			}
			if diff := cmp.Diff(tc.want, describe(s.Objects())); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
			if changed, _ := s.reload(nil); changed {
				t.Error("a second reload tells of a change")
			}
		})
	}
}

func TestOpenNamesTheRemedy(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir, "file", "")
	for path, want := range map[string]string{"absent": "create it", "file": "it is no directory"} {
		_, err := Open(filepath.Join(dir, path), slog.New(slog.DiscardHandler), func() {})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", path, err, want)
		}
	}
}

func TestFileThatIsBeingWrittenWaits(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir, "a.yaml", service("a", 1))
	s := mustOpen(t, dir)

	f, err := os.Create(filepath.Join(dir, "a.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// Half of what the writer means, and a good manifest already.
	if _, err := f.WriteString(service("a", 2)); err != nil {
		t.Fatal(err)
	}
	changed, busy := s.reload(map[string]bool{"a.yaml": true})
	if changed || !cmp.Equal(busy, []string{"a.yaml"}) {
		t.Errorf("while it is written: changed %t, busy %q", changed, busy)
	}
	if _, err := f.WriteString("---\n" + service("b", 2)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	changed, busy = s.reload(map[string]bool{"a.yaml": true})
	if got := describe(s.Objects()); !changed || busy != nil || got != "default/a:2 default/b:2" {
		t.Errorf("after it is written: changed %t, busy %q, objects %s", changed, busy, got)
	}
}

func TestLostDirectoryKeepsWhatWasRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	mustWrite(t, dir, "a.yaml", service("a", 1))
	s := mustOpen(t, dir)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if changed, _ := s.reload(nil); !changed {
		t.Error("the loss is no change")
	}
	if got := describe(s.Objects()); !strings.HasPrefix(got, "default/a:1\nDirectory ") {
		t.Errorf("got %s", got)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if changed, _ := s.reload(nil); !changed {
		t.Error("the return is no change")
	}
	if got := describe(s.Objects()); got != "default/a:1" {
		t.Errorf("got %s", got)
	}
}

func TestPodWithoutStatusIsReady(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir, "a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: silent}\n---\n"+
		"apiVersion: v1\nkind: Pod\nmetadata: {name: starting}\nstatus: {phase: Pending}\n")
	got := map[string]string{}
	for _, pod := range mustOpen(t, dir).Objects().Pods {
		got[pod.Name] = fmt.Sprint(pod.Status.Phase, len(pod.Status.Conditions))
	}
	if diff := cmp.Diff(map[string]string{"silent": "Running1", "starting": "Pending0"}, got); diff != "" {
		t.Errorf("phase and conditions (-want +got):\n%s", diff)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(service("a", 1) + "---\n" + service("b", 2)))
	f.Add([]byte(`{"apiVersion": "v1", "kind": "List", "items": [{}]}`))
	f.Add([]byte("--- x\n---\n- 1\n---\n&a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, _, _ := decode("f.yaml", data)
		for _, object := range objects {
			if !fs.ValidPath(pathOf(object)) || strings.Count(pathOf(object), "/") != 1 {
				t.Fatalf("%q gives the path %q", data, pathOf(object))
			}
		}
	})
}
