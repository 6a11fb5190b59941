// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

func claim(name, holder string) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		TypeMeta:   metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{kube.LabelClaim: "true"}},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder},
	}
}

// ls lists the controller's directory.
func ls(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, controllerDir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestWriterStoresOneObjectAFile(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	w := s.Writer()
	if err := w.Create(t.Context(), claim("a", "first")); err != nil {
		t.Fatal(err)
	}
	if err := w.Create(t.Context(), claim("a", "second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create twice: got %v, want %v", err, fs.ErrExist)
	}
	path := filepath.Join(dir, controllerDir, "lease-ns_a.yaml")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := header + "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata:\n  labels:\n" +
		"    sluice-lb.io/claim: \"true\"\n  name: a\n  namespace: ns\nspec:\n  holderIdentity: first\n"
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Errorf("file (-want +got):\n%s", diff)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, err %v", info.Mode(), err)
	}
	if leases := s.Objects().Leases; len(leases) != 1 || *leases[0].Spec.HolderIdentity != "first" {
		t.Errorf("the source does not know the write: %v", leases)
	}
	if changed, _ := s.reload(map[string]bool{"controller/lease-ns_a.yaml": true}); changed {
		t.Error("an own write counts as a change")
	}

	if err := w.Update(t.Context(), claim("a", "first")); err != nil {
		t.Fatal(err)
	}
	if again, err := os.Stat(path); err != nil || !os.SameFile(info, again) {
		t.Error("an update that changes nothing writes")
	}
	if err := w.Update(t.Context(), claim("a", "third")); err != nil {
		t.Fatal(err)
	}
	if leases := s.Objects().Leases; *leases[0].Spec.HolderIdentity != "third" {
		t.Errorf("after the update: %v", leases)
	}
	if diff := cmp.Diff([]string{"lease-ns_a.yaml"}, ls(t, dir)); diff != "" {
		t.Errorf("directory (-want +got):\n%s", diff)
	}
	for range 2 { // deleting the absent succeeds
		if err := w.Delete(t.Context(), claim("a", "")); err != nil {
			t.Fatal(err)
		}
	}
	if leases := s.Objects().Leases; len(leases) != 0 || len(ls(t, dir)) != 0 {
		t.Errorf("after the deletion: %v", leases)
	}
}

func TestOfManyCreatorsOneWins(t *testing.T) {
	dir := t.TempDir()
	const n = 16
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		w := mustOpen(t, dir).Writer() // a process of its own
		group.Go(func() { errs[i] = w.Create(t.Context(), claim("a", "me")) })
	}
	group.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, fs.ErrExist) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d creators won", won)
	}
}

func TestServiceStatusIsMerged(t *testing.T) {
	dir := t.TempDir()
	forged := "name: web, annotations: {a: b, sluice-lb.io/vips: forged}"
	user := strings.Replace(service("web", 1), "name: web", forged, 1) +
		"status: {loadBalancer: {ingress: [{ip: 6.6.6.6}]}}\n"
	mustWrite(t, dir, "web.yaml", user)
	s := mustOpen(t, dir)
	w := s.Writer()

	web := func() *corev1.Service {
		t.Helper()
		return s.Objects().Services[0]
	}
	if svc := web(); svc.Annotations[kube.AnnotationVIPs] != "" || len(svc.Status.LoadBalancer.Ingress) != 0 {
		t.Errorf("the user's word on status counts: %v %v", svc.Annotations, svc.Status)
	}
	svc := web().DeepCopy()
	svc.Annotations[kube.AnnotationVIPs] = "{}"
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.0.0.1"}}
	if err := w.UpdateServiceStatus(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(svc, web()); diff != "" {
		t.Errorf("merged (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(svc, mustOpen(t, dir).Objects().Services[0]); diff != "" {
		t.Errorf("merged by another reader (-want +got):\n%s", diff)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "web.yaml")); err != nil || string(data) != user {
		t.Errorf("the user's file is touched: %v", err)
	}
	if diff := cmp.Diff([]string{"service-status-default_web.yaml"}, ls(t, dir)); diff != "" {
		t.Errorf("directory (-want +got):\n%s", diff)
	}

	// The user's file goes: the status is an orphan until the controller clears it.
	if err := os.Remove(filepath.Join(dir, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	s.reload(nil)
	if orphans := s.Objects().Orphans; len(orphans) != 1 || orphans[0].String() != "default/web" {
		t.Fatalf("orphans %v", orphans)
	}
	gone := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	if err := w.UpdateServiceStatus(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	if orphans := s.Objects().Orphans; len(orphans) != 0 || len(ls(t, dir)) != 0 {
		t.Errorf("orphans %v, files %v", orphans, ls(t, dir))
	}
}
