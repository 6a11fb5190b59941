// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

func TestStatus(t *testing.T) {
	testkit.Require(t, testkit.Root)
	pod := cnitest.NewPod(t, "runtime")
	const (
		required = `, "required": true`
		damaged  = "not to be told"
	)
	unready := func(a *agentDouble) { a.unready = "the datapath is not programmed yet" }
	silent := func(a *agentDouble) { a.hang = true }
	skewed := func(a *agentDouble) {
		a.refusal = &api.Error{Code: 1, Msg: "this agent has no GET /readyz: use parts of one version"}
	}
	tests := map[string]struct {
		sluice  string             // further keys of the element
		agent   func(*agentDouble) // nil: no agent
		network string             // of an attachment on the node, if any
		code    uint
		want    []string
	}{
		"ready":              {agent: func(*agentDouble) {}},
		"ready, required":    {agent: func(*agentDouble) {}, sluice: required, network: "macvlan1"},
		"down":               {network: "macvlan1"}, // ADD would succeed
		"down, required":     {sluice: required, code: 50, want: []string{"agent not reachable", "see that sluiced runs"}},
		"down, attached":     {sluice: required, network: "macvlan1", code: 50}, // the programs are in the kernel
		"not ready":          {agent: unready, code: 50, want: []string{"not ready", "not programmed yet", "see the log"}},
		"not ready, others":  {agent: unready, network: "macvlan2", code: 50},
		"not ready, served":  {agent: unready, network: "macvlan1", code: 51, want: []string{"may not be served"}},
		"not ready, damaged": {agent: unready, network: damaged, code: 51},
		"silent":             {agent: silent, code: 50, want: []string{"deadline", "see the log"}},
		"of another version": {agent: skewed, code: 1, want: []string{"no GET /readyz", "of one version"}},
		"bad configuration":  {sluice: `, "vips": 7`, code: 7, want: []string{`"vips": 7 is no list`}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			mustSpool(t, nil)
			switch tc.network {
			case "":
			case damaged:
				mustSpool(t, map[api.Key]string{{ContainerID: pod.ContainerID, IfName: pod.IfName}: "macvlan2"})
				mustDamageSpool(t, pod)
			default:
				mustSpool(t, map[api.Key]string{{ContainerID: "a", IfName: "net1"}: tc.network})
			}
			if tc.agent != nil {
				startAgent(t).set(tc.agent)
			}
			began := time.Now()
			stdin := `{"cniVersion": "1.1.0", "name": "macvlan1", "type": "sluice"` + tc.sluice + `}`
			wantGlobal(t, execGlobal(t, pod, "STATUS", stdin), tc.code, tc.want...)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("STATUS took %v, want about %v at most", took, statusTime)
			}
		})
	}
}
