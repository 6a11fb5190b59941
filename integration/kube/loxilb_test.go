// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/integration/cluster"
)

const loxilbManifests = "testdata/loxilb.yaml"

// TestLoxilbUsersManifestsRunUnmodified applies what a user of loxilb has, with the class and the annotation that he has. One
// of his networks is missing, which is told and holds nothing back.
func TestLoxilbUsersManifestsRunUnmodified(t *testing.T) {
	flags := []string{
		"--load-balancer-class=loxilb.io/loxilb", "--load-balancer-class=sluice-lb.io/sluice",
		"--network-annotation=loxilb.io/multus-nets", "--network-annotation=sluice-lb.io/networks",
	}
	w := mustWorld(t, 2, cluster.Options{AgentFlags: flags, ControllerFlags: flags})
	file, err := filepath.Abs(loxilbManifests)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.api.Kubectl(t.Context(), "apply", "-f", file); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	vip := w.mustVIPs(t, "multus-service", 1)[0]
	if took := time.Since(began); took > time.Second {
		t.Errorf("EXTERNAL-IP after %v, want 1 s at most after kubectl", took)
	}
	w.mustApply(t, "nad.yaml", mustDocument(t, loxilbManifests, 0)) // so that the lab knows the network
	w.mustPod(t, w.Node(2), "pod-01", "pod-01", "macvlan1")
	w.mustAnswer(t, vip+":55002", "pod-01")
	w.mustEvent(t, "Service multus-service", "Normal Allocated: default/macvlan1 has "+vip)
	w.mustEvent(t, "Service multus-service", "Warning NetworkNotFound")
	w.mustEvent(t, "Service multus-service", "Warning UnsupportedAnnotation: annotation loxilb.io/lbmode")
	out, err := w.api.Kubectl(t.Context(), "get", "service", "multus-service")
	if err != nil || !strings.Contains(out, vip) {
		t.Errorf("kubectl get service: %v\n%s", err, out)
	}
}
