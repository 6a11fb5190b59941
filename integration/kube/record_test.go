// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

// watchedByAgents are the kinds that an agent watches, as arguments of kubectl get.
var watchedByAgents = [][]string{
	{"services", "--all-namespaces", "--field-selector=spec.type=LoadBalancer"},
	{"network-attachment-definitions", "--all-namespaces"},
	{"endpointslices", "--all-namespaces", "--selector=endpointslice.kubernetes.io/managed-by=sluice-lb.io"},
	{"leases", "--namespace=sluice-system", "--selector=sluice-lb.io/claim"},
	{"leases", "--namespace=sluice-system", "--selector=sluice-lb.io/node-facts"},
	{"nodes"},
}

// recording is where the events go that the tests of the source permute.
const recording = "../../daemon/internal/kube/apiserver/testdata/events/life.jsonl"

// TestRecordEvents writes what a watch shows while Services, pods and nodes come, change and go: with UPDATE=1.
func TestRecordEvents(t *testing.T) {
	if os.Getenv("UPDATE") == "" {
		t.Skip("it writes " + recording + ": set UPDATE=1")
	}
	w := mustWorld(t, 2, cluster.Options{})
	var watches []*lab.Process
	for _, args := range watchedByAgents {
		p, err := w.api.Watch(args...)
		if err != nil {
			t.Fatal(err)
		}
		watches = append(watches, p)
	}
	nad, err := os.ReadFile(exampleNAD)
	if err != nil {
		t.Fatal(err)
	}
	w.mustApply(t, "nad.yaml", string(nad))
	w.mustApply(t, "web.yaml", webService)
	web1 := w.mustPod(t, w.Node(1), "web1", "web", "macvlan1")
	w.mustPod(t, w.Node(2), "web2", "web", "macvlan1")
	w.mustVIPs(t, "web", 2)
	w.mustAnswer(t, "192.168.20.240:8080", "web1", "web2")
	for _, patch := range []string{
		`{"spec": {"sessionAffinity": "ClientIP"}}`,
		`{"spec": {"externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["192.168.20.0/24"]}}`,
		`{"spec": {"externalTrafficPolicy": "Cluster", "sessionAffinity": "None"}}`,
		`{"metadata": {"annotations": {"sluice-lb.io/networks": null}}}`,
		`{"metadata": {"annotations": {"sluice-lb.io/networks": "macvlan1"}}}`,
	} {
		if _, err := w.api.Kubectl(t.Context(), "patch", "service", "web", "--type=merge", "-p", patch); err != nil {
			t.Fatal(err)
		}
	}
	w.mustApply(t, "short.yaml", serviceNamed("short"))
	w.mustVIPs(t, "short", 1)
	for _, ready := range []bool{false, true} {
		if err := errors.Join(web1.SetReady(ready), w.api.SetNodeReady(t.Context(), w.Node(2), ready)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.api.Kubectl(t.Context(), "delete", "service", "short"); err != nil {
		t.Fatal(err)
	}
	w.wantNothingOf(t, "deleted", "short")
	w.mustVIPs(t, "web", 2)
	w.mustAnswer(t, "192.168.20.240:8080", "web1", "web2")

	var out bytes.Buffer
	for _, p := range watches {
		p.Kill()
	}
	if err := compact(&out, watches[0].Output()); err != nil { // they share a log
		t.Fatal(err)
	}
	if err := os.WriteFile(recording, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// serviceNamed is a small Service of ours.
func serviceNamed(name string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: default, annotations: {sluice-lb.io/networks: macvlan1}}
spec:
  type: LoadBalancer
  loadBalancerClass: sluice-lb.io/sluice
  selector: {app: web}
  ports: [{protocol: TCP, port: 8080, targetPort: 80}]
`, name)
}

// compact writes events a line each. kubectl is killed in the middle of its last one, if it was busy.
func compact(out *bytes.Buffer, text string) error {
	in := json.NewDecoder(bytes.NewReader([]byte(text)))
	for {
		var event json.RawMessage
		switch err := in.Decode(&event); {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return fmt.Errorf("read what kubectl printed: %w", err)
		}
		if err := json.Compact(out, event); err != nil {
			return err
		}
		out.WriteByte('\n')
	}
}
