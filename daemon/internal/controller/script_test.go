// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/sluice-lb/sluice/daemon/internal/controller"
	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/kube/manifest"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

var update = flag.Bool("update", false, "rewrite the wanted results in testdata")

// TestScripts runs testdata/*.txtar. A file "N/name.yaml" is written in step N, or removed if it is empty; after each
// step the controller syncs, and "N/want" is what the store then holds, and what the objects' issues are.
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("found no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive := mustParseScript(t, path)
			dir := t.TempDir()
			for i, f := range archive.Files {
				step, name, _ := strings.Cut(f.Name, "/")
				if name != "want" {
					mustPut(t, filepath.Join(dir, name), f.Data)
					continue
				}
				got := mustSync(t, dir)
				// A second Sync, by a controller that has just started, must find nothing to do.
				before := mustStat(t, dir)
				if again := mustSync(t, dir); again != got {
					t.Errorf("step %s: a second Sync changes the result:\n%s", step, gocmp.Diff(got, again))
				}
				if diff := gocmp.Diff(before, mustStat(t, dir)); diff != "" {
					t.Errorf("step %s: a second Sync writes (-before +after):\n%s", step, diff)
				}
				if *update {
					archive.Files[i].Data = []byte(got)
				} else if diff := gocmp.Diff(string(f.Data), got); diff != "" {
					t.Errorf("step %s (-want +got):\n%s", step, diff)
				}
			}
			if *update {
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestOrderOfFilesDoesNotMatter runs the first step of each script with its documents in other files and orders.
func TestOrderOfFilesDoesNotMatter(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("found no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			var docs [][]byte
			var want string
			for _, f := range mustParseScript(t, path).Files {
				if f.Name == "1/want" {
					want = string(f.Data)
					break
				}
				docs = append(docs, bytes.Split(f.Data, []byte("---\n"))...)
			}
			random := rand.New(rand.NewPCG(1, 2))
			for range 5 {
				dir := t.TempDir()
				for at, i := range random.Perm(len(docs)) {
					mustPut(t, filepath.Join(dir, fmt.Sprintf("%03d.yaml", at)), docs[i])
				}
				if diff := gocmp.Diff(want, mustSync(t, dir)); diff != "" {
					t.Fatalf("in another order (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func mustParseScript(t *testing.T, path string) *txtar.Archive {
	t.Helper()
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

func mustPut(t *testing.T, path string, data []byte) {
	t.Helper()
	var err error
	if len(bytes.TrimSpace(data)) == 0 {
		err = os.Remove(path)
	} else {
		err = os.WriteFile(path, data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// mustSync starts a controller on the directory, syncs once, and gives what is stored.
func mustSync(t *testing.T, dir string) string {
	t.Helper()
	source, err := manifest.Open(dir, slog.New(slog.DiscardHandler), func() {})
	if err != nil {
		t.Fatal(err)
	}
	c := controller.New(source, source.Writer(), kube.Options{}, slog.New(slog.DiscardHandler))
	if err := c.Sync(t.Context()); err != nil {
		t.Fatalf("sync: %v", err)
	}
	return dump(source.Objects(), c.Issues())
}

// mustStat gives a fingerprint of the controller's files.
func mustStat(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "controller", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprint(filepath.Base(path), info.ModTime().UnixNano(), info.Size()))
	}
	return lines
}

// dump writes what the controller stored, and the issues, as text.
func dump(objects kube.Objects, issues []lb.Issue) string {
	var b strings.Builder
	for _, lease := range objects.Leases {
		if lease.Labels[kube.LabelClaim] == "true" {
			fmt.Fprintf(&b, "claim %s: %s for %s on %s\n", lease.Name, lease.Annotations[kube.AnnotationAddress],
				*lease.Spec.HolderIdentity, lease.Annotations[kube.AnnotationNetwork])
		}
	}
	for _, slice := range objects.Slices {
		var ports []string
		for _, port := range slice.Ports {
			ports = append(ports, fmt.Sprintf("%s=%d/%s", *port.Name, *port.Port, *port.Protocol))
		}
		macs, _ := kube.ParseMACs(slice.Annotations[kube.AnnotationMACs])
		network := slice.Annotations[kube.AnnotationNetwork]
		fmt.Fprintf(&b, "slice %s on %s: %s\n", slice.Name, network, strings.Join(ports, " "))
		for _, e := range slice.Endpoints {
			fmt.Fprintf(&b, "  %s %s %s on %s ready=%t serving=%t terminating=%t\n",
				e.Addresses[0], macs[netip.MustParseAddr(e.Addresses[0])], e.TargetRef.Name, *e.NodeName,
				*e.Conditions.Ready, *e.Conditions.Serving, *e.Conditions.Terminating)
		}
	}
	for _, svc := range objects.Services {
		vips := cmp.Or(svc.Annotations[kube.AnnotationVIPs], "no VIPs")
		fmt.Fprintf(&b, "service %s/%s: %s\n", svc.Namespace, svc.Name, vips)
		for _, entry := range svc.Status.LoadBalancer.Ingress {
			fmt.Fprintf(&b, "  ingress %s mode %s", entry.IP, *entry.IPMode)
			for _, port := range entry.Ports {
				fmt.Fprintf(&b, " %d/%s", port.Port, port.Protocol)
				if port.Error != nil {
					fmt.Fprintf(&b, " (%s)", *port.Error)
				}
			}
			b.WriteByte('\n')
		}
		for _, condition := range svc.Status.Conditions {
			fmt.Fprintf(&b, "  %s %s %s\n", condition.Type, condition.Status, condition.Reason)
			for text := range strings.SplitSeq(condition.Message, "; ") {
				fmt.Fprintf(&b, "    %s\n", text)
			}
		}
	}
	for _, issue := range issues {
		fmt.Fprintln(&b, "issue", issue)
	}
	return b.String()
}
