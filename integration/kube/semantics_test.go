// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/integration/cluster"
)

// TestPolicyLocalKeepsAVIPWithItsPods moves the only pod of a Service with externalTrafficPolicy Local from node to node.
func TestPolicyLocalKeepsAVIPWithItsPods(t *testing.T) {
	w := mustWorld(t, 2, cluster.Options{})
	w.mustApply(t, "nad.yaml", wideNAD)
	w.mustApply(t, "web.yaml", strings.Replace(serviceNamed("web"), "spec:", "spec:\n  externalTrafficPolicy: Local", 1))
	vip := w.mustVIPs(t, "web", 1)[0]
	for i, n := range w.Nodes() {
		name := fmt.Sprintf("web%d", i+1)
		p := w.mustPod(t, n, name, "web", "macvlan1")
		w.mustAnswer(t, vip+":8080", name)
		w.mustEvent(t, "Service web", fmt.Sprintf("Normal Announcing: announcing %s from node %s on eth1", vip, n.Name))
		if err := p.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTerminatingPodKeepsItsConnections deletes a pod with grace: connections that it has go on, new ones go to the other, until
// the pod is gone.
func TestTerminatingPodKeepsItsConnections(t *testing.T) {
	w := mustWorld(t, 2, cluster.Options{})
	w.mustApply(t, "nad.yaml", wideNAD)
	w.mustApply(t, "web.yaml", serviceNamed("web"))
	w.mustPod(t, w.Node(1), "web1", "web", "macvlan1")
	web2 := w.mustPod(t, w.Node(2), "web2", "web", "macvlan1")
	vip := w.mustVIPs(t, "web", 1)[0]
	w.mustAnswer(t, vip+":8080", "web1", "web2")
	release := w.mustHold(t, vip+":8080")
	grace := int64(300)
	pods := w.api.Client().CoreV1().Pods("default")
	if err := pods.Delete(t.Context(), "web2", metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		t.Fatal(err)
	}
	w.mustAnswer(t, vip+":8080", "web1")
	release(t)

	// While nothing else serves, what terminates serves new connections too.
	web1 := metav1.DeleteOptions{GracePeriodSeconds: &grace}
	if err := pods.Delete(t.Context(), "web1", web1); err != nil {
		t.Fatal(err)
	}
	w.mustAnswer(t, vip+":8080", "web1", "web2")
	if err := web2.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.mustAnswer(t, vip+":8080", "web1")
}

// TestEndpointsThatUsersWriteAreServed gives a Service without a selector a slice of the user's: an address of a pod on the
// network is served, another is told of.
func TestEndpointsThatUsersWriteAreServed(t *testing.T) {
	w := mustWorld(t, 2, cluster.Options{})
	w.mustApply(t, "nad.yaml", wideNAD)
	w.mustApply(t, "own.yaml", strings.Replace(serviceNamed("own"), "  selector: {app: web}\n", "", 1))
	web1 := w.mustPod(t, w.Node(2), "web1", "web", "macvlan1")
	w.mustApply(t, "slice.yaml", fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: own-mine, namespace: default, labels: {kubernetes.io/service-name: own}}
addressType: IPv4
ports: [{protocol: TCP, port: 80}]
endpoints:
- addresses: [%s]
- addresses: [192.168.20.9]
`, web1.Addr))
	vip := w.mustVIPs(t, "own", 1)[0]
	w.mustAnswer(t, vip+":8080", "web1")
	w.mustEvent(t, "Service own", "Warning EndpointNotAttached")
}

// TestServicesShareAVIP has two Services share a VIP by a key.
func TestServicesShareAVIP(t *testing.T) {
	w := mustWorld(t, 1, cluster.Options{})
	w.mustApply(t, "nad.yaml", wideNAD)
	w.mustPod(t, w.Node(1), "web1", "web", "macvlan1")
	shared := func(name string, port int) string {
		return strings.NewReplacer("macvlan1}", "macvlan1, sluice-lb.io/sharing-key: both}", "port: 8080", fmt.Sprintf("port: %d", port)).
			Replace(serviceNamed(name))
	}
	w.mustApply(t, "one.yaml", shared("one", 8080))
	w.mustApply(t, "two.yaml", shared("two", 8081))
	one, two := w.mustVIPs(t, "one", 1)[0], w.mustVIPs(t, "two", 1)[0]
	if one != two {
		t.Fatalf("the VIPs are %s and %s, want one", one, two)
	}
	w.mustAnswer(t, one+":8080", "web1")
	w.mustAnswer(t, one+":8081", "web1")
	if _, err := w.api.Kubectl(t.Context(), "delete", "service", "one"); err != nil {
		t.Fatal(err)
	}
	mustUntil(t, "the first port is refused", func(ctx context.Context) error {
		if _, err := ask(ctx, w.Client, one+":8080", 1); err == nil {
			return fmt.Errorf("it answers")
		}
		return nil
	})
	w.mustAnswer(t, one+":8081", "web1")
}
