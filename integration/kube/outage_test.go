// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/integration/cluster"
)

// outageEnv says how long the API server is away, such as 10m.
const outageEnv = "SLUICE_OUTAGE"

// TestTrafficNeedsNoAPIServer takes the API server away for a minute. Meanwhile connections go on and new ones come, an agent
// and the controller die, and a pod's death is noticed by its own node. Afterwards, everybody works without being told to.
func TestTrafficNeedsNoAPIServer(t *testing.T) {
	away := mustDuration(t, outageEnv, time.Minute)
	w := mustWorld(t, 2, cluster.Options{})
	w.mustApply(t, "nad.yaml", wideNAD)
	w.mustApply(t, "web.yaml", serviceNamed("web"))
	w.mustPod(t, w.Node(1), "web1", "web", "macvlan1")
	w.mustPod(t, w.Node(2), "web2", "web", "macvlan1")
	vip := w.mustVIPs(t, "web", 1)[0]
	target := vip + ":8080"
	w.mustAnswer(t, target, "web1", "web2")
	w.mustController(t, "second")
	release := w.mustHold(t, target)

	w.api.StopAPI()
	end := time.Now().Add(away)
	w.Agent(w.Node(1)).Kill()
	w.Controller().Kill()
	if err := w.LaunchAgent(t.Context(), w.Node(1)); err != nil { // it waits for the API server
		t.Fatal(err)
	}
	asked := 0
	// Each request takes a port of the client for a minute, and there are 28,000.
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for now := time.Now(); now.Before(end); now = <-ticker.C {
		if _, err := ask(t.Context(), w.Client, target, 5); err != nil {
			t.Fatalf("after %d requests without an API server: %v", asked, err)
		}
		asked += 5
	}
	if err := w.api.StartAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.api.RestartEtcd(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustUntil(t, "the agent that came without an API server is ready", func(ctx context.Context) error {
		return w.Ready(ctx, w.Node(1))
	})
	w.mustPod(t, w.Node(1), "web3", "web", "macvlan1")
	w.mustAnswer(t, target, "web1", "web2", "web3")
	w.mustCreate(t, "late")
	late := w.mustVIPs(t, "late", 1)[0]
	w.mustAnswer(t, late+":8080", "web1", "web2", "web3")
	if got := w.mustVIPs(t, "web", 1)[0]; got != vip {
		t.Errorf("the VIP was %s and is %s", vip, got)
	}
	release(t)
	t.Logf("%d requests without an API server in %v", asked, away)
}
