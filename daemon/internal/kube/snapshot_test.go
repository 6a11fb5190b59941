// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/kube/manifest"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

var update = flag.Bool("update", false, "rewrite the wanted results in testdata")

// TestSnapshot runs testdata/*.txtar: manifests, and in "want" the part of the snapshot that they give. "options" lists
// classes and network annotations, one "class NAME" or "annotation NAME" a line.
func TestSnapshot(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("found no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			var opts kube.Options
			var want *txtar.File
			for i, f := range archive.Files {
				switch f.Name {
				case "want":
					want = &archive.Files[i]
				case "options":
					opts = mustParseOptions(t, string(f.Data))
				default:
					mustWrite(t, filepath.Join(dir, f.Name), f.Data)
				}
			}
			source, err := manifest.Open(dir, slog.New(slog.DiscardHandler), func() {})
			if err != nil {
				t.Fatal(err)
			}
			got := dump(source.Objects().Snapshot(opts))
			if *update {
				want.Data = []byte(got)
				mustWrite(t, path, txtar.Format(archive))
			} else if diff := cmp.Diff(string(want.Data), got); diff != "" {
				t.Errorf("snapshot (-want +got):\n%s", diff)
			}
		})
	}
}

func mustParseOptions(t *testing.T, text string) kube.Options {
	t.Helper()
	var opts kube.Options
	for line := range strings.Lines(text) {
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

func mustWrite(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// dump writes a snapshot as text.
func dump(s lb.Snapshot) string {
	var b strings.Builder
	for _, svc := range s.Services {
		fmt.Fprintf(&b, "service %s/%s uid %q", svc.Namespace, svc.Name, svc.UID)
		if svc.Local {
			b.WriteString(" local")
		}
		if svc.Created != 0 {
			fmt.Fprintf(&b, " created %d", svc.Created)
		}
		b.WriteByte('\n')
		for _, vip := range svc.VIPs {
			fmt.Fprintf(&b, "  vip %s on %s\n", vip.Addr, vip.Network)
		}
		for _, port := range svc.Ports {
			fmt.Fprintf(&b, "  port %d/%s %q\n", port.Port, port.Protocol, port.Name)
		}
		if c := svc.Clients; c.Restricted || c.Affinity > 0 {
			fmt.Fprintf(&b, "  clients restricted=%t ranges=%s affinity=%d\n", c.Restricted, c.Ranges, c.Affinity)
		}
	}
	for _, n := range s.Networks {
		fmt.Fprintf(&b, "network %s segment %s master %s %s %s\n", n.Name, n.Segment, n.Master, n.Kind, n.Mode)
	}
	for _, slice := range s.Slices {
		fmt.Fprintf(&b, "slice of %s on %s\n", slice.Service, slice.Network)
		for _, port := range slice.Ports {
			fmt.Fprintf(&b, "  port %d/%s %q\n", port.Port, port.Protocol, port.Name)
		}
		for _, e := range slice.Endpoints {
			fmt.Fprintf(&b, "  endpoint %s %s node %s pod %s uid %q serving=%t terminating=%t\n",
				e.Addr, e.MAC, e.Node, e.Pod, e.Pod.UID, e.Serving, e.Terminating)
		}
	}
	for _, n := range s.Nodes {
		fmt.Fprintf(&b, "node %s segments %q MACs %v\n", n.Name, n.Segments, n.MACs)
	}
	for _, issue := range s.Issues {
		fmt.Fprintln(&b, "issue", issue)
	}
	return b.String()
}
