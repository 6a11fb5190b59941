// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

// TestMultusWithoutAVersion: for a NAD without cniVersion, Multus up to v4.3.0 sends results of CNI 0.1.0 at ADD,
// without interfaces and MAC, and at DEL none of our keys.
func TestMultusWithoutAVersion(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	dels := map[string]string{
		"0.3.1": `{"cniVersion": "0.3.1", "name": "macvlan1", "type": "sluice", "ipam": {}}`,
		"1.0.0": `{"cniVersion": "1.0.0", "name": "macvlan1", "type": "sluice", "ipam": {}, "dns": {},
			"prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "192.168.20.20/24"}], "dns": {}}}`,
	}
	for name, del := range dels {
		t.Run(name, func(t *testing.T) {
			pod := cnitest.NewPod(t, "web")
			n := newNetwork(t)
			n.version = ""
			mustAdd(t, pod, n)
			got := mustSpooled(t, pod)
			want := api.Attachment{
				Kind: "macvlan", Mode: "bridge", MAC: mustLinkMAC(t, pod),
				Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.20.20/24")},
				Gateways:  []netip.Addr{netip.MustParseAddr("192.168.20.1")},
				Master:    "eth1",
			}
			if diff := cmp.Diff(want, api.Attachment{
				Kind: got.Kind, Mode: got.Mode, MAC: got.MAC,
				Addresses: got.Addresses, Gateways: got.Gateways, Master: got.Master,
			}, equateAddrs); diff != "" {
				t.Errorf("spooled (-want +got):\n%s", diff)
			}
			if len(routing(t, pod)) == 0 {
				t.Error("there is no reply routing")
			}
			if out, err := pod.Exec(t.Context(), "DEL", del, nil); err != nil || out != "" {
				t.Errorf("DEL = %v, with output %q; want success and silence", err, out)
			}
			wantNothingLeft(t, pod)
		})
	}
}

// TestMultusRepeatsArguments: Multus puts the runtime's CNI_ARGS behind its own, so keys come twice. The last wins.
func TestMultusRepeatsArguments(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	pod := cnitest.NewPod(t, "web")
	n := newNetwork(t)
	mustAdd(t, pod, n)
	env := map[string]string{"CNI_ARGS": "IgnoreUnknown=true;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=p1;" +
		"K8S_POD_INFRA_CONTAINER_ID=c-web;K8S_POD_UID=u-1;IgnoreUnknown=1;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=p1;" +
		"K8S_POD_INFRA_CONTAINER_ID=c-web;K8S_POD_UID=u-2"}
	if _, err := pod.Exec(t.Context(), "ADD", n.stdin(prevResult), env); err != nil {
		t.Fatal(err)
	}
	if got, want := mustSpooled(t, pod).Pod, (api.Pod{Namespace: "ns1", Name: "p1", UID: "u-2"}); got != want {
		t.Errorf("pod = %+v, want %+v", got, want)
	}
}
