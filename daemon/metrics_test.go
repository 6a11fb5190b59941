// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
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
	controllerHandler(registry).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if diff := cmp.Diff(want, "\n"+answer.Body.String()); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}
