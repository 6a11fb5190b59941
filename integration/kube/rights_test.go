// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sluice-lb/sluice/integration/cluster"
)

// as gives a client with a token of one of our ServiceAccounts, which is bound to a node unless that is empty.
func (w *world) as(t *testing.T, account, node string) kubernetes.Interface {
	t.Helper()
	file, err := w.api.AccountKubeconfig(t.Context(), "sluice-system", account, node)
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	config.Dial = w.api.Config().Dial // the server is in the lab
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestTheAPIServerTakesWhatIsShipped(t *testing.T) {
	w := mustWorld(t, 1, cluster.Options{})
	for _, args := range [][]string{
		{"-f", shipped},
		{"-k", "../../deploy/overlays/plain"},
		{"-k", "../../deploy/overlays/k3s"},
		{"-f", "../../netconf-examples"},
		{"-f", "../../deploy/crds"},
	} {
		path, err := filepath.Abs(args[1])
		if err != nil {
			t.Fatal(err)
		}
		out, err := w.api.Kubectl(t.Context(), "apply", "--dry-run=server", "--validate=strict", args[0], path)
		if err != nil {
			t.Error(err)
		}
		t.Logf("%v:\n%s", args, out)
	}
}

func TestAccountsMayDoNoMoreThanTheyMust(t *testing.T) {
	w := mustWorld(t, 1, cluster.Options{})
	const everywhere, ours = "default", "sluice-system"
	for _, tt := range []struct {
		account, namespace, resource, verbs string // the verbs that it may; of all others none
	}{
		{"sluice-agent", everywhere, "services", "list watch"},
		{"sluice-agent", everywhere, "services/status", ""},
		{"sluice-agent", everywhere, "nodes", "list watch"},
		{"sluice-agent", everywhere, "pods", ""},
		{"sluice-agent", everywhere, "secrets", ""},
		{"sluice-agent", everywhere, "events", "create patch"},
		{"sluice-agent", everywhere, "endpointslices.discovery.k8s.io", "list watch"},
		{"sluice-agent", everywhere, "network-attachment-definitions.k8s.cni.cncf.io", "list watch"},
		{"sluice-agent", everywhere, "leases.coordination.k8s.io", ""},
		{"sluice-agent", ours, "secrets", ""},
		{"sluice-agent", ours, "leases.coordination.k8s.io", "list watch create update"},
		{"sluice-controller", everywhere, "services", "list watch"},
		{"sluice-controller", everywhere, "services/status", "update"},
		{"sluice-controller", everywhere, "services/finalizers", "update"},
		{"sluice-controller", everywhere, "nodes", "list watch"},
		{"sluice-controller", everywhere, "pods", "list watch"},
		{"sluice-controller", everywhere, "secrets", ""},
		{"sluice-controller", everywhere, "events", "create patch"},
		{"sluice-controller", everywhere, "endpointslices.discovery.k8s.io", "list watch create update delete"},
		{"sluice-controller", everywhere, "network-attachment-definitions.k8s.cni.cncf.io", "list watch"},
		{"sluice-controller", everywhere, "leases.coordination.k8s.io", ""},
		{"sluice-controller", ours, "leases.coordination.k8s.io", "list watch create update delete"},
		{"sluice-controller", ours, "secrets", "create"},
	} {
		t.Run(strings.Join([]string{tt.account, tt.namespace, tt.resource}, " "), func(t *testing.T) {
			var may []string
			for _, verb := range []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"} {
				if w.may(t, tt.account, tt.namespace, tt.resource, verb) {
					may = append(may, verb)
				}
			}
			if got := strings.Join(may, " "); got != tt.verbs {
				t.Errorf("may %q, want %q", got, tt.verbs)
			}
		})
	}
}

// may asks the API server's authorization, with a resource as kubectl names it.
func (w *world) may(t *testing.T, account, namespace, resource, verb string) bool {
	t.Helper()
	resource, sub, _ := strings.Cut(resource, "/")
	resource, group, _ := strings.Cut(resource, ".")
	review, err := w.api.Client().AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User:   "system:serviceaccount:sluice-system:" + account,
			Groups: []string{"system:serviceaccounts", "system:serviceaccounts:sluice-system", "system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: namespace, Verb: verb, Group: group, Resource: resource, Subresource: sub,
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.Allowed
}

// attempt is a write, and what the answer to it holds; "" if it succeeds.
type attempt struct {
	name   string
	write  func(ctx context.Context) error
	answer string
}

func (a attempt) check(t *testing.T) {
	t.Helper()
	err := a.write(t.Context())
	switch {
	case a.answer == "" && err != nil:
		t.Errorf("%s: %v", a.name, err)
	case a.answer != "" && (err == nil || !strings.Contains(err.Error(), a.answer)):
		t.Errorf("%s: got %v, want %q", a.name, err, a.answer)
	}
}

func TestANodeTellsOfItselfAlone(t *testing.T) {
	w := mustWorld(t, 2, cluster.Options{})
	facts := map[string]string{"sluice-lb.io/node-facts": "true"}
	dry := []string{metav1.DryRunAll}
	create := func(c kubernetes.Interface, name string, labels map[string]string) func(context.Context) error {
		return func(ctx context.Context) error {
			lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
			_, err := c.CoordinationV1().Leases("sluice-system").Create(ctx, lease, metav1.CreateOptions{DryRun: dry})
			return err
		}
	}
	update := func(c kubernetes.Interface, name string, change func(*coordinationv1.Lease)) func(context.Context) error {
		return func(ctx context.Context) error {
			lease, err := w.api.Client().CoordinationV1().Leases("sluice-system").Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return fmt.Errorf("as admin: %w", err)
			}
			change(lease)
			_, err = c.CoordinationV1().Leases("sluice-system").Update(ctx, lease, metav1.UpdateOptions{DryRun: dry})
			return err
		}
	}
	touch := func(l *coordinationv1.Lease) {
		metav1.SetMetaDataAnnotation(&l.ObjectMeta, "example.org/touched", "yes")
	}
	mustUntil(t, "agents publish their nodes' facts", func(ctx context.Context) error {
		for _, n := range w.Nodes() {
			if _, err := w.api.Client().CoordinationV1().Leases("sluice-system").Get(ctx, n.Name, metav1.GetOptions{}); err != nil {
				return err
			}
		}
		return nil
	})
	one, unbound := w.as(t, "sluice-agent", "node1"), w.as(t, "sluice-agent", "")
	mustRefuse(t, create(one, "node9", facts))
	for _, a := range []attempt{
		{"its own", update(one, "node1", touch), ""},
		{"another's", update(one, "node2", touch), "the agent of node node1 writes the facts of no other"},
		{"one that is new", create(one, "node9", facts), "the agent of node node1 writes the facts of no other"},
		{
			"its own, as something else", update(one, "node1", func(l *coordinationv1.Lease) { l.Labels = nil }),
			"a Lease with the label sluice-lb.io/node-facts=true",
		},
		{
			"its own, as a claim too", update(one, "node1", func(l *coordinationv1.Lease) {
				metav1.SetMetaDataLabel(&l.ObjectMeta, "sluice-lb.io/claim", "true")
			}),
			"a Lease with the label sluice-lb.io/node-facts=true",
		},
		{"the leader's", update(one, "sluice-controller", touch), "the agent of node node1 writes the facts of no other"},
		{"without a node", update(unbound, "node1", touch), "the token of an agent must name its node"},
		{"the admin", create(w.api.Client(), "anything", nil), ""},
	} {
		a.check(t)
	}
}

func TestTheControllerWritesItsOwnSlicesAlone(t *testing.T) {
	w := mustWorld(t, 1, cluster.Options{})
	const managed, service = "endpointslice.kubernetes.io/managed-by", "kubernetes.io/service-name"
	const others = "the controller writes EndpointSlices of its own"
	controller := w.as(t, "sluice-controller", "").DiscoveryV1().EndpointSlices("default")
	// Nothing is left for the controller that runs to clean up.
	dry := []string{metav1.DryRunAll}
	create := func(labels map[string]string) func(context.Context) error {
		return func(ctx context.Context) error {
			slice := &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{Name: "slice", Labels: labels}, AddressType: discoveryv1.AddressTypeIPv4,
			}
			_, err := controller.Create(ctx, slice, metav1.CreateOptions{DryRun: dry})
			return err
		}
	}
	remove := func(ctx context.Context) error {
		return controller.Delete(ctx, "kubernetes", metav1.DeleteOptions{DryRun: dry})
	}
	mustRefuse(t, create(nil))
	for _, a := range []attempt{
		{"its own", create(map[string]string{managed: "sluice-lb.io"}), ""},
		{"nobody's", create(nil), others},
		{"Kubernetes'", create(map[string]string{managed: "endpointslice-controller.k8s.io"}), others},
		{"one for kube-proxy", create(map[string]string{managed: "sluice-lb.io", service: "kubernetes"}), others},
		{"deletes that of the API server", remove, others},
	} {
		a.check(t)
	}
}

// mustRefuse waits until a write is refused: the API server needs a second or two to learn of policies that are new.
func mustRefuse(t *testing.T, write func(context.Context) error) {
	t.Helper()
	mustUntil(t, "the policy is in force", func(ctx context.Context) error {
		err := write(ctx)
		if err == nil {
			return errors.New("a write that it must refuse is taken")
		}
		if !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
			return err
		}
		return nil
	})
}
