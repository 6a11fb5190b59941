// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

// verbTable is what a runtime gets for each verb in each version, through libcni and the whole chain. "refused" is
// libcni's refusal of a verb that the version does not have. "-" is a verb that libcni does not pass on, and the plugin
// would refuse. "down" is STATUS without the agent that the network requires.
const verbTable = `
version  add  check    check-drift  del  gc-no-list  gc-empty-list  status  down
""       ok   refused  refused      ok   -           -              -       -
0.1.0    ok   refused  refused      ok   -           -              -       -
0.2.0    ok   refused  refused      ok   -           -              -       -
0.3.0    ok   refused  refused      ok   -           -              -       -
0.3.1    ok   refused  refused      ok   -           -              -       -
0.4.0    ok   ok       code 100     ok   -           -              -       -
1.0.0    ok   ok       code 100     ok   -           -              -       -
1.1.0    ok   ok       code 100     ok   keeps       removes        ok      code 50
`

func TestVerbsInEveryVersion(t *testing.T) {
	testkit.Require(t, testkit.Root)
	cnitest.Master(t, "eth1")
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "\nversion\tadd\tcheck\tcheck-drift\tdel\tgc-no-list\tgc-empty-list\tstatus\tdown\n")
	for _, version := range []string{"", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		name := version
		if name == "" {
			name = `""`
		}
		fmt.Fprintf(w, "%s\t%s\n", name, strings.Join(playVerbs(t, version), "\t"))
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Log(table.String())
	if diff := cmp.Diff(strings.TrimSpace(verbTable), strings.TrimSpace(table.String())); diff != "" {
		t.Errorf("verbs (-want +got):\n%s", diff)
	}
}

// playVerbs gives one row of the table.
func playVerbs(t *testing.T, version string) []string {
	config := strings.Replace(chain(t), `"1.0.0"`, fmt.Sprintf("%q", version), 1)
	ctx := t.Context()
	n := startNode(t, served)
	defer n.stop()
	pod := cnitest.NewPod(t, "a")
	_, err := pod.Add(ctx, config)
	add := outcome(err)
	n.wait("a")
	check := outcome(pod.Check(ctx, config))

	// The runtime that asks for GC and STATUS has forgotten the pod, so only the plugin's own GC removes it.
	amnesiac := cnitest.NewPod(t, "b")
	gc := func(args *libcni.GCArgs) string {
		if err := amnesiac.GC(ctx, config, args); err != nil {
			return outcome(err)
		}
		if keys, err := api.SpoolKeys(api.SpoolDir); err != nil || len(keys) > 0 {
			return "keeps"
		}
		n.wait() // the agent follows
		return "removes"
	}
	gcNoList := gc(nil)
	gcEmpty := gc(&libcni.GCArgs{ValidAttachments: []types.GCAttachment{}})
	status := outcome(amnesiac.Status(ctx, config))
	drift := "ok"
	if err := api.RemoveSpool(api.SpoolDir, api.Key{ContainerID: "c-a", IfName: "net1"}); err == nil {
		drift = outcome(pod.Check(ctx, config))
	}
	del := outcome(pod.Del(ctx, config))
	n.wait()
	n.stop()
	down := outcome(amnesiac.Status(ctx, config))
	// What libcni does not pass on looks like success; the plugin itself must refuse it.
	skipped := gcNoList == "keeps" && gcEmpty == "keeps" && status == "ok" && down == "ok"
	if skipped && !hasGlobalVerbs(t, amnesiac, version) {
		gcNoList, gcEmpty, status, down = "-", "-", "-", "-"
	}
	return []string{add, check, drift, del, gcNoList, gcEmpty, status, down}
}

// hasGlobalVerbs tells whether the plugin takes GC and STATUS in the version.
func hasGlobalVerbs(t *testing.T, pod *cnitest.Pod, version string) bool {
	t.Helper()
	stdin := fmt.Sprintf(`{"cniVersion": %q, "name": "macvlan1", "type": "sluice"}`, version)
	_, gcErr := pod.Exec(t.Context(), "GC", stdin, nil)
	_, statusErr := pod.Exec(t.Context(), "STATUS", stdin, nil)
	if gc, status := outcome(gcErr), outcome(statusErr); gc != status {
		t.Errorf("version %q: GC is %s and STATUS is %s, want both or neither", version, gc, status)
	}
	return gcErr == nil
}

// outcome says an error in one word.
func outcome(err error) string {
	var e *types.Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e) && e.Code != types.ErrIncompatibleCNIVersion:
		return fmt.Sprintf("code %d", e.Code)
	case e != nil, strings.Contains(err.Error(), "does not support the CHECK command"):
		return "refused"
	}
	return err.Error()
}
