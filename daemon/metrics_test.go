// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

func TestVIPsAreCountedByFamilyAndOwner(t *testing.T) {
	registry := prometheus.NewRegistry()
	gaugeVIPs(registry, func() lb.State {
		return lb.State{VIPs: []lb.VIP{
			{Addr: netip.MustParseAddr("192.168.20.240"), Owned: true},
			{Addr: netip.MustParseAddr("192.168.20.241"), Owned: true},
			{Addr: netip.MustParseAddr("fd00:20::f0")},
		}}
	})
	const want = `
# HELP sluice_vips VIPs that this node balances, by family and by whether it owns them.
# TYPE sluice_vips gauge
sluice_vips{family="IPv4",owned="false"} 0
sluice_vips{family="IPv4",owned="true"} 2
sluice_vips{family="IPv6",owned="false"} 1
sluice_vips{family="IPv6",owned="true"} 0
`
	answer := httptest.NewRecorder()
	controllerHandler(registry, alwaysReady).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if diff := cmp.Diff(want, "\n"+answer.Body.String()); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

func TestAControllerIsReadyOnceItKnowsAllObjects(t *testing.T) {
	var knows atomic.Bool
	handler := controllerHandler(prometheus.NewRegistry(), func() error { return knowsAll(&knows) })
	ask := func(path string) (int, string) {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
		return answer.Code, answer.Body.String()
	}
	if code, body := ask("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "has not told all objects") {
		t.Errorf("before: %d %q", code, body)
	}
	if code, _ := ask("/healthz"); code != http.StatusOK {
		t.Errorf("a controller that waits is not healthy: %d", code)
	}
	knows.Store(true)
	if code, body := ask("/readyz"); code != http.StatusOK {
		t.Errorf("after: %d %q", code, body)
	}
}
