// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/integration/lab"
)

// ranges lets in who is behind the router, and then who is on the segment.
const (
	remoteRanges  = "  loadBalancerSourceRanges: [10.20.0.0/24, \"fd00:21::/64\"]\n"
	segmentRanges = "  loadBalancerSourceRanges: [192.168.20.0/24, \"fd00:20::/64\"]\n"
)

// Who is in no range gets nothing, by whichever node his packets come. When the ranges change, that is said of new
// connections.
func TestSourceRangesDecideAboutNewConnections(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{})
	mustApply(t, c, "web.yaml", webService+remoteRanges)
	pods, vips := mustWeb(t, c)
	askers := someClients(t, c)
	remote, others := askers[1], append(askers[:1:1], askers[2:]...)
	var holders []holder
	eachFamily(t, func(t *testing.T, f family) {
		ask(t, remote, f, "load", vips.at(f, "8080"), pods)
		ask(t, remote, f, "udp", vips.at(f, "8080"), pods)
		for _, client := range others {
			for _, how := range []string{"load", "udp"} {
				wantDropped(t, c, client, how, vips.at(f, "8080"), "source")
			}
		}
	})
	holders = mustHoldAll(t, []client{remote}, vips)
	mustApply(t, c, "web.yaml", webService+segmentRanges)
	for _, f := range families {
		for _, client := range others {
			err := lab.Until(t.Context(), 20*time.Second, client.name+" is let in", func(ctx context.Context) error {
				return client.from.Command(ctx, "traffic", "load", "-n", "30", "-timeout", "500ms", vips.at(f, "8080")).Run()
			})
			if err != nil {
				t.Error(err)
			}
		}
		wantSilence(t, remote, "load", vips.at(f, "8080"))
		wantSilence(t, remote, "udp", vips.at(f, "8080"))
	}
	for _, h := range holders {
		h.release(t)
	}
}

// Each client keeps to one pod, also when pods come that get their share of new clients, until it was silent for longer than
// the timeout or the pod is not ready.
func TestSessionAffinityOutlivesNewPods(t *testing.T) {
	c := mustCluster(t, "auto", lab.Options{})
	mustApply(t, c, "web.yaml", webService+"  sessionAffinity: ClientIP\n")
	first := mustPod(t, c.Node(1), "web1", "web")
	mustServed(t, c, "default/web", first)
	askers := clients(t, c, nil, nil)
	only := func(f family, vips addrs, hows ...string) map[string]int {
		t.Helper()
		pods := map[string]int{}
		for _, client := range askers {
			for _, how := range hows {
				out, err := client.from.Command(t.Context(), "traffic", how, "-n", "30", vips.at(f, "8080")).Output()
				r := mustReport(t, out, err)
				if len(r.Pods) != 1 {
					t.Errorf("%s %s: went to %v, want one pod", client.name, how, r.Pods)
				}
				for pod := range r.Pods {
					pods[pod]++
				}
			}
		}
		return pods
	}
	vips := mustServed(t, c, "default/web", first)
	for _, f := range families {
		only(f, vips, "load", "udp")
	}
	all := []*lab.Pod{first, mustPod(t, c.Node(2), "web2", "web"), mustPod(t, c.Node(3), "web3", "web")}
	mustServed(t, c, "default/web", all...)
	for _, f := range families { // by their hash alone, one of the 8 clients would keep to web1 and no other with 10^-4
		if pods := only(f, vips, "load", "udp"); len(pods) != 1 || pods["web1"] == 0 {
			t.Errorf("%s: clients of web1 moved: %v", f, pods)
		}
	}

	const short = "  sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}\n"
	mustApply(t, c, "web.yaml", webService+"  sessionAffinity: ClientIP\n"+short)
	asked := time.Now()
	err := lab.Until(t.Context(), 30*time.Second, "silent clients choose anew", func(context.Context) error {
		// Whoever asks prolongs it. The datapath counts in units of about a second, rounded up.
		if time.Since(asked) < 3*time.Second {
			return errors.New("it is too early to ask")
		}
		pods := only("IPv4", vips, "load")
		asked = time.Now()
		if len(pods) == 1 {
			return fmt.Errorf("all went to %v", pods)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}

	if err := first.SetReady(false); err != nil {
		t.Fatal(err)
	}
	mustServed(t, c, "default/web", all[1:]...)
	for _, f := range families { // a datagram may be of a flow that lives on: a client uses a port again
		if pods := only(f, vips, "load"); pods["web1"] != 0 {
			t.Errorf("%s: clients keep to a pod that is not ready: %v", f, pods)
		}
	}
}
