// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/daemon/internal/controller"
	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

const networkAndService = `apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: macvlan1, namespace: default}
spec: {config: '{"plugins": [{"type": "macvlan", "master": "eth1"}, {"type": "sluice", "vips": ["10.0.0.1"]}]}'}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, annotations: {sluice-lb.io/networks: macvlan1}}
spec:
  type: LoadBalancer
  loadBalancerClass: sluice-lb.io/sluice
  ports: [{port: 80}]
`

// TestAnInvalidEditOfANetworkTakesNoVIPAway edits the file under a controller, and looks at what it and an agent make of it.
func TestAnInvalidEditOfANetworkTakesNoVIPAway(t *testing.T) {
	file := filepath.Join(t.TempDir(), "all.yaml")
	mustWriteFile(t, file, networkAndService)
	changed := make(chan struct{}, 1)
	source, err := openManifests(options{manifests: filepath.Dir(file)}, slog.New(slog.DiscardHandler), func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	ended := make(chan error)
	go func() { ended <- source.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	control := controller.New(source, source.Writer(), kube.Options{}, slog.New(slog.DiscardHandler))
	expectVIP := func(when string) {
		t.Helper()
		if err := control.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		objects := source.Objects()
		if vips := objects.Services[0].Annotations[kube.AnnotationVIPs]; vips != `{"default/macvlan1":["10.0.0.1"]}` {
			t.Errorf("%s: the status shows %q", when, vips)
		}
		in := objects.Snapshot(kube.Options{})
		if len(in.Networks) != 1 || len(in.Services[0].VIPs) != 1 {
			t.Errorf("%s: nodes serve VIPs %v on networks %v", when, in.Services[0].VIPs, in.Networks)
		}
	}
	invalid := func() bool {
		return slices.ContainsFunc(control.Issues(), func(i lb.Issue) bool { return i.Reason == kube.ReasonInvalidNetwork })
	}
	expectVIP("at first")
	mustWriteFile(t, file, strings.Replace(networkAndService, `["10.0.0.1"]`, `["10.0.0"]`, 1))
	for !invalid() {
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("the edit is not seen: issues %v", control.Issues())
		}
		expectVIP("with an edit that cannot be used")
	}
}

// mustWriteFile writes a file that nobody sees half.
func mustWriteFile(t *testing.T, path, text string) {
	t.Helper()
	whole := filepath.Join(t.TempDir(), "whole")
	if err := os.WriteFile(whole, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(whole, path); err != nil {
		t.Fatal(err)
	}
}
