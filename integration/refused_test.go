// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/integration/lab"
)

// refusing are a Service without pods, and one whose pods do not listen: nodes refuse for the first, pods for the other.
const refusing = `
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: default, annotations: {sluice-lb.io/networks: macvlan1}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  loadBalancerClass: sluice-lb.io/sluice
  selector: {app: nobody}
  ports:
  - {name: tcp, protocol: TCP, port: 8080, targetPort: 80}
  - {name: udp, protocol: UDP, port: 8080, targetPort: 80}
---
apiVersion: v1
kind: Service
metadata: {name: closed, namespace: default, annotations: {sluice-lb.io/networks: macvlan1}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  loadBalancerClass: sluice-lb.io/sluice
  selector: {app: web}
  ports:
  - {name: tcp, protocol: TCP, port: 8080, targetPort: 9}
  - {name: udp, protocol: UDP, port: 8080, targetPort: 9}
`

// TestEveryClientIsRefusedAtOnce
//
//	client ---+--- node1 (host, asker, web1)           each asks two VIPs that nobody answers, by TCP and UDP, first
//	remote -- router    node2 (host, asker, web2)      with checksums left to the hardware, then with final ones on the
//	          +--- node3 (host, asker, web3)           wire
func TestEveryClientIsRefusedAtOnce(t *testing.T) {
	for _, tool := range []string{"tcpdump", "ethtool"} {
		mustTool(t, tool)
	}
	c := mustCluster(t, "auto", lab.Options{})
	webs, vips := mustWeb(t, c)
	mustApply(t, c, "refusing.yaml", refusing)
	targets := map[string]addrs{
		"empty":  mustServed(t, c, "default/empty"),
		"closed": mustServed(t, c, "default/closed", webs...),
	}
	askers := clients(t, c, webs, vips)
	beRefused(t, askers, targets)
	mustDoChecksumsInSoftware(t, c, webs...)
	wire := mustCapture(t, c, "ip or ip6")
	beRefused(t, askers, targets)
	// The kernel hands tcpdump full blocks, or what there is after a second: these frames are few.
	err := lab.Until(t.Context(), 10*time.Second, "tcpdump has written", func(context.Context) error {
		const least = 20_000
		info, err := os.Stat(wire.file)
		if err == nil && info.Size() < least {
			err = fmt.Errorf("%d octets, want %d", info.Size(), least)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	wire.judge(t, 100)
}

// beRefused lets each client ask for what nobody serves. A client that got no word would wait for a timeout.
func beRefused(t *testing.T, askers []client, targets map[string]addrs) {
	t.Helper()
	for _, client := range askers {
		for name, vips := range targets {
			for _, f := range families {
				for _, how := range []string{"load", "udp"} {
					// The exit code says what the report does: there are errors.
					out, _ := client.from.Command(t.Context(), "traffic", how, "-n", "3", vips.at(f, "8080")).Output()
					var r report
					if err := json.Unmarshal(out, &r); err != nil {
						t.Fatalf("%s: read the report %q: %v", client.name, out, err)
					}
					for _, e := range r.Errors {
						if !strings.Contains(e, "connection refused") {
							t.Errorf("%s asks %s by %s over %s: %s, want a refusal", client.name, name, how, f, e)
						}
					}
					if len(r.Errors) != 3 {
						t.Errorf("%s asks %s by %s over %s: %d refusals and %v, want 3 refusals",
							client.name, name, how, f, len(r.Errors), r.Pods)
					}
				}
			}
		}
	}
}
