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
	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-lb/sluice/daemon/internal/controller"
	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/kube/manifest"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

var update = flag.Bool("update", false, "rewrite the wanted results in testdata")

// TestScripts runs testdata/*.txtar. A file "N/name.yaml" is written in step N, or removed if it is empty; after each
// step the controller syncs, and "N/want" is what the store then holds, and what the objects' issues are. "options", if it
// is there, comes first, and lists classes and network annotations, one "class NAME" or "annotation NAME" a line.
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("found no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive := mustParseScript(t, path)
			dir := t.TempDir()
			opts := takeOptions(t, archive)
			for i, f := range archive.Files {
				step, name, isStep := strings.Cut(f.Name, "/")
				if !isStep {
					continue
				}
				if name != "want" {
					mustPut(t, filepath.Join(dir, name), f.Data)
					continue
				}
				got := mustSync(t, dir, opts)
				// A second Sync, by a controller that has just started, must find nothing to do.
				before := mustStat(t, dir)
				if again := mustSync(t, dir, opts); again != got {
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
			archive := mustParseScript(t, path)
			opts := takeOptions(t, archive)
			for _, f := range archive.Files {
				if f.Name == "options" {
					continue
				}
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
				if diff := gocmp.Diff(want, mustSync(t, dir, opts)); diff != "" {
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

func takeOptions(t *testing.T, archive *txtar.Archive) kube.Options {
	t.Helper()
	var opts kube.Options
	if archive.Files[0].Name != "options" {
		return opts
	}
	for line := range strings.Lines(string(archive.Files[0].Data)) {
		switch kind, name, _ := strings.Cut(strings.TrimSpace(line), " "); kind {
		case "class":
			opts.Classes = append(opts.Classes, name)
		case "annotation":
			opts.NetworkAnnotations = append(opts.NetworkAnnotations, name)
		default:
			t.Fatalf("unknown option %q", line)
		}
	}
	return opts
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
func mustSync(t *testing.T, dir string, opts kube.Options) string {
	t.Helper()
	source, err := manifest.Open(dir, slog.New(slog.DiscardHandler), func() {})
	if err != nil {
		t.Fatal(err)
	}
	c := controller.New(source, source.Writer(), opts, slog.New(slog.DiscardHandler))
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
			fmt.Fprintf(&b, "claim %s: %s for %s", lease.Name, lease.Annotations[kube.AnnotationAddress], *lease.Spec.HolderIdentity)
			if sharers, shared := lease.Annotations[kube.AnnotationSharers]; shared {
				fmt.Fprintf(&b, " of %s\n", sharers)
			} else {
				fmt.Fprintf(&b, " on %s\n", lease.Annotations[kube.AnnotationNetwork])
			}
		}
	}
	for _, slice := range objects.Slices {
		if !kube.OwnSlice(slice) {
			continue
		}
		var ports []string
		for _, port := range slice.Ports {
			ports = append(ports, fmt.Sprintf("%s=%d/%s", *port.Name, *port.Port, *port.Protocol))
		}
		macs, _ := kube.ParseMACs(slice.Annotations[kube.AnnotationMACs])
		network := slice.Annotations[kube.AnnotationNetwork]
		fmt.Fprintf(&b, "slice %s on %s: %s\n", slice.Name, network, strings.Join(ports, " "))
		for _, e := range slice.Endpoints {
			fmt.Fprintf(&b, "  %s %s %s on %s ready=%t serving=%t terminating=%t",
				e.Addresses[0], macs[netip.MustParseAddr(e.Addresses[0])], e.TargetRef.Name, *e.NodeName,
				*e.Conditions.Ready, *e.Conditions.Serving, *e.Conditions.Terminating)
			if e.Zone != nil {
				fmt.Fprintf(&b, " zone=%s", *e.Zone)
			}
			b.WriteByte('\n')
		}
	}
	for _, svc := range objects.Services {
		vips := cmp.Or(svc.Annotations[kube.AnnotationVIPs], "no VIPs")
		fmt.Fprintf(&b, "service %s/%s: %s\n", svc.Namespace, svc.Name, vips)
		for _, entry := range svc.Status.LoadBalancer.Ingress {
			mode := corev1.LoadBalancerIPMode("none")
			if entry.IPMode != nil {
				mode = *entry.IPMode
			}
			fmt.Fprintf(&b, "  ingress %s mode %s", cmp.Or(entry.IP, entry.Hostname), mode)
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
