// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sluice-lb/sluice/integration/lab"
	"github.com/sluice-lb/sluice/internal/testkit"
)

const webService = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  loadBalancerClass: sluice-lb.io/sluice
  ports: [{port: 80}]
`

func mustServer(t *testing.T, o Options) *Server {
	t.Helper()
	testkit.Require(t, testkit.Root)
	s, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.Logs())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestObjectsOutliveRestarts has the API server gone and back, and etcd too.
func TestObjectsOutliveRestarts(t *testing.T) {
	s := mustServer(t, Options{})
	if err := s.objects.Apply("web.yaml", []byte(webService)); err != nil {
		t.Fatal(err)
	}
	before := mustService(t, s)

	s.StopAPI()
	if _, err := s.Client().CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{}); err == nil {
		t.Error("a stopped API server answers")
	}
	if err := s.StartAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := mustService(t, s); after.UID != before.UID {
		t.Errorf("after a restart of the API server the Service has UID %s, before %s", after.UID, before.UID)
	}
	if err := s.RestartEtcd(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := mustService(t, s); after.UID != before.UID || after.Spec.ClusterIP != before.Spec.ClusterIP {
		t.Errorf("after a restart of etcd the Service is %v, before %v", after, before)
	}
	out, err := s.Kubectl(t.Context(), "get", "service", "web", "-o", "jsonpath={.metadata.uid}")
	if err != nil || out != string(before.UID) {
		t.Errorf("kubectl tells UID %q, want %q: %v", out, before.UID, err)
	}
}

// TestControllersRun asks for what kube-controller-manager alone makes: the slices of eth0, and the end of what an owner
// leaves behind.
func TestControllersRun(t *testing.T) {
	s := mustServer(t, Options{})
	ctx := t.Context()
	if err := s.objects.Apply("web.yaml", []byte(webService+"  selector: {app: web}\n")); err != nil {
		t.Fatal(err)
	}
	web := mustService(t, s)
	slices := s.Client().DiscoveryV1().EndpointSlices("default")
	wantSlices := func(n int) {
		t.Helper()
		err := lab.Until(ctx, startLimit, "the Service has its slices", func(ctx context.Context) error {
			list, err := slices.List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
			if err == nil && len(list.Items) != n {
				err = fmt.Errorf("there are %d, want %d", len(list.Items), n)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	wantSlices(1)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "owned", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "v1", Kind: "Service", Name: "web", UID: web.UID},
	}}}
	leases := s.Client().CoordinationV1().Leases("default")
	if _, err := leases.Create(ctx, lease, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.objects.Remove("web.yaml"); err != nil {
		t.Fatal(err)
	}
	wantSlices(0)
	err := lab.Until(ctx, startLimit, "the garbage is collected", func(ctx context.Context) error {
		_, err := leases.Get(ctx, "owned", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("the Lease is still there: %w", err)
	})
	if err != nil {
		t.Error(err)
	}
}

// TestAccountsAreAuthorized proves that a ServiceAccount's kubeconfig is that account's, with its rights and no others, and
// that a token may say which node it is for.
func TestAccountsAreAuthorized(t *testing.T) {
	s := mustServer(t, Options{})
	ctx := t.Context()
	if err := s.objects.Apply("account.yaml", []byte(`
# an account that may read Services of one namespace
---
apiVersion: v1
kind: Node
metadata: {name: node1}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [services], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: default}]
`)); err != nil {
		t.Fatal(err)
	}
	reader := mustAccount(t, s, "reader", "node1")
	review, err := reader.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{},
		metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	who := review.Status.UserInfo
	if node := who.Extra["authentication.kubernetes.io/node-name"]; who.Username != "system:serviceaccount:default:reader" ||
		len(node) != 1 || node[0] != "node1" {
		t.Errorf("the API server sees %+v", who)
	}
	if _, err := reader.CoreV1().Services("default").List(ctx, metav1.ListOptions{}); err != nil {
		t.Errorf("list what the Role allows: %v", err)
	}
	if _, err := reader.CoreV1().Services("").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("list what it does not allow: %v", err)
	}
	_, err = mustAccount(t, s, "default", "").CoreV1().Services("default").List(ctx, metav1.ListOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("list with an account without rights: %v", err)
	}
}

// TestManifestsAreWhole checks that a manifest's next version takes away what it no longer holds, and that Remove takes the
// rest.
func TestManifestsAreWhole(t *testing.T) {
	s := mustServer(t, Options{})
	const one, two = "{apiVersion: v1, kind: ConfigMap, metadata: {name: one, labels: {a: b}}}",
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: two, namespace: kube-public}}"
	const bare = "{apiVersion: v1, kind: ConfigMap, metadata: {name: one}}"
	for _, step := range []struct{ manifest, want string }{
		{one + "\n---\n" + two, "one map[a:b], two"},
		{one, "one map[a:b]"},
		{bare, "one map[]"},
		{two, "two"},
		{one + "\n---\n" + two, "one map[a:b], two"},
		{"", ""},
	} {
		var err error
		if step.manifest != "" {
			err = s.objects.Apply("maps.yaml", []byte(step.manifest))
		} else {
			err = s.objects.Remove("maps.yaml")
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := mustMaps(t, s); got != step.want {
			t.Errorf("after %q there is %q, want %q", step.manifest, got, step.want)
		}
	}
	err := s.objects.Apply("bad.yaml", []byte("{apiVersion: v1, kind: Nothing, metadata: {name: x}}"))
	if err == nil || !strings.Contains(err.Error(), `"bad.yaml"`) || !strings.Contains(err.Error(), "Nothing") {
		t.Errorf("apply an unknown kind: %v", err)
	}
}

func TestClosedServerLeavesNothingBehind(t *testing.T) {
	s := mustServer(t, Options{})
	pids := []int{s.etcd.PID(), s.api.PID(), s.manager.PID()}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("signal to process %d: %v", pid, err)
		}
	}
	if _, err := os.Stat(s.o.Lab.Dir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory: %v", err)
	}
}

func mustService(t *testing.T, s *Server) *corev1.Service {
	t.Helper()
	web, err := s.Client().CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return web
}

func mustAccount(t *testing.T, s *Server, name, node string) kubernetes.Interface {
	t.Helper()
	file, err := s.AccountKubeconfig(t.Context(), "default", name, node)
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	config.Dial = s.host.Dial
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// mustMaps tells of the ConfigMaps one and two.
func mustMaps(t *testing.T, s *Server) string {
	t.Helper()
	var out []string
	for _, at := range []struct{ namespace, name string }{{"default", "one"}, {"kube-public", "two"}} {
		m, err := s.Client().CoreV1().ConfigMaps(at.namespace).Get(t.Context(), at.name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			t.Fatal(err)
		case at.name == "one":
			out = append(out, fmt.Sprintf("one %v", m.Labels))
		default:
			out = append(out, "two")
		}
	}
	return strings.Join(out, ", ")
}
