// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/integration/cluster"
)

const webService = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, annotations: {sluice-lb.io/networks: macvlan1, sluice-lb.io/ip-families: "IPv4, IPv6"}}
spec:
  type: LoadBalancer
  loadBalancerClass: sluice-lb.io/sluice
  selector: {app: web}
  ports:
  - {name: http, protocol: TCP, port: 8080, targetPort: 80}
  - {name: datagrams, protocol: UDP, port: 8080, targetPort: 80}
`

// otherService is not ours.
const otherService = `
apiVersion: v1
kind: Service
metadata: {name: other, namespace: default}
spec:
  type: LoadBalancer
  selector: {app: web}
  ports: [{port: 80}]
`

// TestLifeOfAService follows a Service from kubectl apply to the packets, and to the end.
func TestLifeOfAService(t *testing.T) {
	w := mustWorld(t, 2, cluster.Options{Manifests: []string{exampleNAD}})
	w.mustApply(t, "other.yaml", otherService)
	w.mustApply(t, "web.yaml", webService)
	w.mustPod(t, w.Node(1), "web1", "web", "macvlan1")
	w.mustPod(t, w.Node(2), "web2", "web", "macvlan1")
	vips := w.mustVIPs(t, "web", 2)
	if !slices.Contains(vips, "192.168.20.240") {
		t.Errorf("VIPs are %v, want the pool's first IPv4 address among them", vips)
	}
	w.mustAnswer(t, "192.168.20.240:8080", "web1", "web2")

	svc, err := w.service(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range svc.Status.LoadBalancer.Ingress {
		if entry.IPMode == nil || *entry.IPMode != corev1.LoadBalancerIPModeProxy || len(entry.Ports) != 2 {
			t.Errorf("ingress entry is %+v, want mode Proxy and two ports", entry)
		}
	}
	var shown map[string][]string
	if err := json.Unmarshal([]byte(svc.Annotations["sluice-lb.io/vips"]), &shown); err != nil || len(shown["default/macvlan1"]) != 2 {
		t.Errorf("annotation sluice-lb.io/vips is %q: %v", svc.Annotations["sluice-lb.io/vips"], err)
	}
	w.mustEvent(t, "Service web", "Normal Allocated: default/macvlan1 has 192.168.20.240")
	w.mustEvent(t, "Service web", "Normal Announcing: announcing 192.168.20.240 from node node")
	w.wantSlices(t, svc)
	w.wantEthSlices(t, "web", 2)

	out, err := w.api.Kubectl(t.Context(), "get", "service", "web", "-o", "wide")
	if err != nil || !strings.Contains(out, "192.168.20.240") {
		t.Errorf("kubectl get service: %v\n%s", err, out)
	}

	// What is not ours stays as it was, and what was ours is cleaned up whichever way it ends.
	if other, err := w.service(t.Context(), "other"); err != nil || len(other.Status.LoadBalancer.Ingress) > 0 ||
		len(other.Annotations) > 0 || len(other.Status.Conditions) > 0 {
		t.Errorf("a Service without our class is %+v: %v", other, err)
	}
	for _, end := range []struct{ name, patch string }{
		{"type changed", `{"spec": {"type": "ClusterIP", "loadBalancerClass": null}}`},
		{"annotation removed", `{"metadata": {"annotations": {"sluice-lb.io/networks": null}}}`},
	} {
		if _, err := w.api.Kubectl(t.Context(), "patch", "service", "web", "--type=merge", "-p", end.patch); err != nil {
			t.Fatal(err)
		}
		w.wantNothingOf(t, end.name, "web")
		w.mustEvent(t, "Service web", "Normal Released: 192.168.20.240 is no VIP of it on default/macvlan1 any more")
		w.mustApply(t, "web.yaml", webService)
		w.mustVIPs(t, "web", 2)
		w.mustAnswer(t, "192.168.20.240:8080", "web1", "web2")
	}
	if _, err := w.api.Kubectl(t.Context(), "delete", "service", "web"); err != nil {
		t.Fatal(err)
	}
	w.wantNothingOf(t, "deleted", "web")
	if err := w.Gone(t.Context(), "default/web"); err != nil {
		t.Error(err)
	}
}

// ourSlices gives the EndpointSlices that Sluice has made for a Service.
func (w *world) ourSlices(ctx context.Context, name string) ([]discoveryv1.EndpointSlice, error) {
	list, err := w.api.Client().DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{
		LabelSelector: "endpointslice.kubernetes.io/managed-by=sluice-lb.io,sluice-lb.io/service-name=" + name,
	})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// claims gives the claims that name a Service.
func (w *world) claims(ctx context.Context, service string) ([]coordinationv1.Lease, error) {
	list, err := w.api.Client().CoordinationV1().Leases("sluice-system").List(ctx, metav1.ListOptions{
		LabelSelector: "sluice-lb.io/claim=true",
	})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(l coordinationv1.Lease) bool {
		return l.Annotations["sluice-lb.io/service"] != service
	}), nil
}

// wantSlices checks what is on our slices: enough for agents, and nothing that kube-proxy would follow.
func (w *world) wantSlices(t *testing.T, svc *corev1.Service) {
	t.Helper()
	list, err := w.ourSlices(t.Context(), svc.Name)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 {
		t.Fatalf("%d slices, want one for each family", len(list))
	}
	for _, slice := range list {
		if slice.Labels["service.kubernetes.io/service-proxy-name"] != "sluice-lb.io" || slice.Labels[discoveryv1.LabelServiceName] != "" {
			t.Errorf("labels of %s are %v", slice.Name, slice.Labels)
		}
		if len(slice.OwnerReferences) != 1 || slice.OwnerReferences[0].UID != svc.UID {
			t.Errorf("owner of %s is %v", slice.Name, slice.OwnerReferences)
		}
		if len(slice.Endpoints) != 2 {
			t.Errorf("%s has %d endpoints", slice.Name, len(slice.Endpoints))
		}
		for _, e := range slice.Endpoints {
			if e.NodeName == nil || e.TargetRef == nil || e.Conditions.Ready == nil || !*e.Conditions.Ready {
				t.Errorf("endpoint of %s is %+v", slice.Name, e)
			}
		}
	}
}

// wantEthSlices checks that Kubernetes' own controller still makes the slices of the pods' first addresses.
func (w *world) wantEthSlices(t *testing.T, name string, endpoints int) {
	t.Helper()
	mustUntil(t, "Kubernetes' slices are there", func(ctx context.Context) error {
		list, err := w.api.Client().DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{
			LabelSelector: discoveryv1.LabelServiceName + "=" + name,
		})
		if err != nil {
			return err
		}
		n := 0
		for _, slice := range list.Items {
			n += len(slice.Endpoints)
		}
		if n != endpoints {
			return fmt.Errorf("they have %d endpoints", n)
		}
		return nil
	})
}

// wantNothingOf waits until nothing of ours is left of a Service.
func (w *world) wantNothingOf(t *testing.T, why, name string) {
	t.Helper()
	mustUntil(t, fmt.Sprintf("nothing is left of %s (%s)", name, why), func(ctx context.Context) error {
		return w.nothingOf(ctx, name)
	})
}

// nothingOf tells what of ours there is of a Service.
func (w *world) nothingOf(ctx context.Context, name string) error {
	list, err := w.ourSlices(ctx, name)
	if err != nil || len(list) > 0 {
		return fmt.Errorf("%d slices: %w", len(list), err)
	}
	claims, err := w.claims(ctx, "default/"+name)
	if err != nil || len(claims) > 0 {
		return fmt.Errorf("%d claims: %w", len(claims), err)
	}
	services, err := w.api.Client().CoreV1().Services("default").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return err
	}
	for _, svc := range services.Items {
		if svc.Annotations["sluice-lb.io/vips"] != "" || len(svc.Status.LoadBalancer.Ingress) > 0 {
			return fmt.Errorf("its status is %+v, its annotations %v", svc.Status, svc.Annotations)
		}
	}
	return nil
}
