// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/integration/lab"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// nad is a chain of upstream plugins only.
const nad = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: plain}
spec:
  config: |
    { "cniVersion": "1.0.0", "name": "plain", "plugins": [
      { "type": "macvlan", "master": "eth1", "mode": "bridge",
        "ipam": { "type": "host-local", "ranges": [[ { "subnet": "192.168.20.0/24",
          "rangeStart": "192.168.20.20", "rangeEnd": "192.168.20.200", "gateway": "192.168.20.1" } ]] } } ] }
`

// mustPlane starts a server for a lab of two nodes, which has the network plain.
func mustPlane(t *testing.T) *Plane {
	t.Helper()
	testkit.Require(t, testkit.Root)
	dir := t.TempDir()
	err := testkit.Build(dir,
		"github.com/containernetworking/plugins/plugins/main/macvlan",
		"github.com/containernetworking/plugins/plugins/ipam/host-local")
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.New(t.Context(), lab.Options{Nodes: 2, Management: true, Path: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	w := &Plane{}
	err = w.Start(t.Context(), l)
	t.Cleanup(func() {
		if t.Failed() && w.Server != nil {
			t.Log(w.Logs())
		}
		if err := errors.Join(w.Close(), l.Close()); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Apply("nad.yaml", []byte(nad)); err != nil {
		t.Fatal(err)
	}
	return w
}

// TestPodsArePublishedAsByKubeletAndMultus follows a pod's object through its life. The slices that kube-controller-manager
// makes of it show that Kubernetes takes it for a pod.
func TestPodsArePublishedAsByKubeletAndMultus(t *testing.T) {
	w := mustPlane(t)
	ctx := t.Context()
	if _, err := w.Lab.Apply("web.yaml", []byte(webService+"  selector: {app: web}\n")); err != nil {
		t.Fatal(err)
	}
	p, err := w.Lab.Node(1).AddPod(ctx, podOf("web1"))
	if err != nil {
		t.Fatal(err)
	}
	object := mustPodObject(t, w, "web1")
	if object.Spec.NodeName != "node1" || object.Status.PodIP == "" || object.Status.Phase != corev1.PodRunning ||
		object.Status.HostIP != "172.30.0.1" {
		t.Errorf("the pod is %+v, %+v", object.Spec, object.Status)
	}
	var status []nadv1.NetworkStatus
	if err := json.Unmarshal([]byte(object.Annotations[nadv1.NetworkStatusAnnot]), &status); err != nil {
		t.Fatal(err)
	}
	if len(status) != 2 || status[1].Name != "default/plain" || !slices.Equal(status[1].IPs, []string{p.Addr.String()}) ||
		status[1].Mac != p.MAC {
		t.Errorf("network-status is %+v", status)
	}
	wantEndpoints(t, w, object.Status.PodIP+" false")
	for _, ready := range []bool{true, false, true} {
		if err := p.SetReady(ready); err != nil {
			t.Fatal(err)
		}
		wantEndpoints(t, w, fmt.Sprintf("%s %t", object.Status.PodIP, ready))
	}
	if err := p.SetLabels(map[string]string{"tier": "front"}); err != nil {
		t.Fatal(err)
	}
	wantEndpoints(t, w)
	if labels := mustPodObject(t, w, "web1").Labels; len(labels) != 1 || labels["tier"] != "front" {
		t.Errorf("the labels are %v", labels)
	}
	for range 2 {
		if err := p.Delete(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Client().CoreV1().Pods("default").Get(ctx, "web1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("read a deleted pod: %v", err)
	}
}

// TestUsersPodsAreTakenUp creates a pod with kubectl, and runs it then. A second one of its name is refused, and leaves it
// alone.
func TestUsersPodsAreTakenUp(t *testing.T) {
	w := mustPlane(t)
	ctx := t.Context()
	file := filepath.Join(t.TempDir(), "pod.yaml")
	if err := os.WriteFile(file, []byte(`
apiVersion: v1
kind: Pod
metadata: {name: web1, labels: {app: web}, annotations: {k8s.v1.cni.cncf.io/networks: plain}}
spec: {containers: [{name: nginx, image: nginx}]}
`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Kubectl(ctx, "apply", "-f", file); err != nil {
		t.Fatal(err)
	}
	users := mustPodObject(t, w, "web1")
	p, err := w.Lab.Node(2).AddPod(ctx, podOf("web1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SetReady(true); err != nil {
		t.Fatal(err)
	}
	_, err = w.Lab.Node(1).AddPod(ctx, podOf("web1"))
	if err == nil || !strings.Contains(err.Error(), "node2") {
		t.Errorf("run the pod on a second node: %v", err)
	}
	object := mustPodObject(t, w, "web1")
	if object.UID != users.UID || object.Spec.NodeName != "node2" || object.Spec.Containers[0].Image != "nginx" {
		t.Errorf("the pod is %s, %+v", object.UID, object.Spec)
	}
}

// TestNodesLive has programs on the nodes reach the API server, and nodes be what their kubelets say, also after the API
// server was away.
func TestNodesLive(t *testing.T) {
	w := mustPlane(t)
	ctx := t.Context()
	node := w.Lab.Node(2)
	flags, err := w.AgentFlags(ctx, node)
	if err != nil {
		t.Fatal(err)
	}
	args := append(flags, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}")
	out, err := node.Command(ctx, filepath.Join(w.Server.o.Programs, "kubectl"), args...).Output()
	if err != nil || string(out) != "node1 node2" {
		t.Errorf("from a node kubectl sees nodes %q: %v", out, err)
	}
	wantNode(t, w, "node1", "True")
	if err := w.SetNodeReady(ctx, w.Lab.Node(1), false); err != nil {
		t.Fatal(err)
	}
	wantNode(t, w, "node1", "False node.kubernetes.io/not-ready")

	before := mustRenewed(t, w, "node2")
	w.StopAPI()
	if err := w.StartAPI(ctx); err != nil {
		t.Fatal(err)
	}
	err = lab.Until(ctx, startLimit, "node2 says that it lives", func(context.Context) error {
		if now := mustRenewed(t, w, "node2"); !before.Before(now) {
			return fmt.Errorf("its Lease was renewed at %v", now)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	wantNode(t, w, "node1", "False node.kubernetes.io/not-ready")
	wantNode(t, w, "node2", "True")
}

// TestKubeletsRepeatPodsStatus contradicts a kubelet, as kube-controller-manager does after it has heard nothing of a node.
func TestKubeletsRepeatPodsStatus(t *testing.T) {
	w := mustPlane(t)
	ctx := t.Context()
	pods := map[string]corev1.ConditionStatus{"web1": corev1.ConditionTrue, "web2": corev1.ConditionFalse}
	for name, status := range pods {
		p, err := w.Lab.Node(1).AddPod(ctx, podOf(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.SetReady(status == corev1.ConditionTrue); err != nil {
			t.Fatal(err)
		}
	}
	for name, status := range pods {
		object := mustPodObject(t, w, name)
		for i := range object.Status.Conditions {
			object.Status.Conditions[i].Status = conditionOf(status != corev1.ConditionTrue)
		}
		wrong, err := w.Client().CoreV1().Pods("default").UpdateStatus(ctx, object, metav1.UpdateOptions{})
		if err != nil || readiness(wrong) == status {
			t.Fatalf("pod %s is made %q: %v", name, readiness(wrong), err)
		}
	}
	err := lab.Until(ctx, startLimit, "the pods are as the kubelet knows them", func(ctx context.Context) error {
		for name, want := range pods {
			object, err := w.Client().CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if got := readiness(object); got != want {
				return fmt.Errorf("pod %s has condition Ready %q, want %q", name, got, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// podOf is a pod of the Service web on the network plain.
func podOf(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"app": "web"},
		Annotations: map[string]string{nadv1.NetworkAttachmentAnnot: "plain"},
	}}
}

func mustPodObject(t *testing.T, w *Plane, name string) *corev1.Pod {
	t.Helper()
	pod, err := w.Client().CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// wantEndpoints waits until the Service web has these endpoints on the default network: address, and whether it is ready.
func wantEndpoints(t *testing.T, w *Plane, want ...string) {
	t.Helper()
	err := lab.Until(t.Context(), startLimit, "the Service has its endpoints", func(ctx context.Context) error {
		list, err := w.Client().DiscoveryV1().EndpointSlices("default").List(ctx,
			metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
		if err != nil {
			return err
		}
		var got []string
		for _, s := range list.Items {
			for _, e := range s.Endpoints {
				got = append(got, fmt.Sprintf("%s %t", e.Addresses[0], *e.Conditions.Ready))
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("it has %q, want %q", got, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// wantNode waits until a node has this condition Ready, and then the taints that kube-controller-manager gives it.
func wantNode(t *testing.T, w *Plane, name, want string) {
	t.Helper()
	err := lab.Until(t.Context(), startLimit, name+" is "+want, func(ctx context.Context) error {
		node, err := w.Client().CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		var got []string
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady {
				got = append(got, string(c.Status))
			}
		}
		for _, taint := range node.Spec.Taints {
			got = append(got, taint.Key)
		}
		if now := strings.Join(slices.Compact(got), " "); now != want {
			return fmt.Errorf("it is %q", now)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// mustRenewed tells when a node's kubelet last said that the node lives.
func mustRenewed(t *testing.T, w *Plane, name string) *metav1.MicroTime {
	t.Helper()
	lease, err := w.Client().CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return lease.Spec.RenewTime
}
