// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/integration/lab"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// verbTable is what cnitool gives for each of its verbs in each version of CNI. A verb that the plugin was not asked for
// is "skipped" or "refused" by cnitool, because the version has no such verb. Further columns spoil something before:
// the attachment's spool file is gone, there is no agent though the network requires one, or cnitool has lost what it
// knows of attachments.
//
// Asked for GC, cnitool first asks for the DEL of all attachments that it knows, and then tells the plugin no list of
// valid ones. So the plugin removes nothing by itself.
const verbTable = `
cniVersion  add  check    status   gc           del  check, no file  status, no agent  gc, no memory
0.1.0       ok   refused  skipped  ok: DEL      ok   refused         skipped           skipped
0.2.0       ok   refused  skipped  ok: DEL      ok   refused         skipped           skipped
0.3.0       ok   refused  skipped  ok: DEL      ok   refused         skipped           skipped
0.3.1       ok   refused  skipped  ok: DEL      ok   refused         skipped           skipped
0.4.0       ok   ok       skipped  ok: DEL      ok   fails           skipped           skipped
1.0.0       ok   ok       skipped  ok: DEL      ok   fails           skipped           skipped
1.1.0       ok   ok       ok       ok: DEL, GC  ok   fails           fails             ok
none        ok   refused  skipped  ok: DEL      ok   refused         skipped           skipped
`

// verbWords tell the table's words, with what cnitool says. Where it "fails", that depends on the column.
var verbWords = map[string]string{
	"skipped": `cnitool says nothing, and asks no plugin: the version has no such verb`,
	"refused": `configuration version "VERSION" does not support the CHECK command`,
	"check, no file fails": `sluice: container CONTAINER, interface net1: the attachment is not in ` +
		`/run/sluice/attachments: delete the pod, so that it is made anew`,
	"status, no agent fails": `sluice: network macvlan1: agent not reachable: dial unix /run/sluice/agent.sock: ` +
		`connect: no such file or directory, and the network requires it: see that sluiced runs on this node`,
}

// TestVerbsInEveryVersion has CNI's own tool run the chain, with the real agent.
func TestVerbsInEveryVersion(t *testing.T) {
	testkit.Require(t, testkit.Root)
	dir := t.TempDir()
	if err := testkit.Build(dir, "github.com/containernetworking/cni/cnitool"); err != nil {
		t.Fatal(err)
	}
	c := mustCluster(t, "auto", lab.Options{Nodes: 1, Path: []string{dir}})
	versions := []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", ""}
	rows := map[string][]string{}
	for i, version := range versions {
		tool := newCNITool(t, c.Node(1), version, fmt.Sprintf("pod%d", i))
		rows[version] = tool.play(t)
	}
	if err := c.Agent(c.Node(1)).Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, version := range versions {
		tool := newCNITool(t, c.Node(1), version, "nobody")
		rows[version][6] = tool.run(t, "status", "status, no agent")
	}

	var table, legend strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "cniVersion\tadd\tcheck\tstatus\tgc\tdel\tcheck, no file\tstatus, no agent\tgc, no memory")
	for _, version := range versions {
		name := version
		if name == "" {
			name = "none"
		}
		fmt.Fprintln(w, name+"\t"+strings.Join(rows[version], "\t"))
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, word := range slices.Sorted(maps.Keys(verbWords)) {
		fmt.Fprintf(&legend, "%s: %s\n", word, verbWords[word])
	}
	for line := range strings.Lines(table.String() + legend.String()) {
		t.Attr("table", strings.TrimSpace(line))
	}
	if diff := cmp.Diff(strings.TrimSpace(verbTable), strings.TrimSpace(table.String())); diff != "" {
		t.Errorf("verbs (-want +got):\n%s", diff)
	}
}

// cniTool runs cnitool on a node, for one pod and one version of the chain. The plugin is run by a script that notes the
// verb.
type cniTool struct {
	node    *lab.Node
	version string
	pod     string // name of its network namespace
}

const (
	cniToolDir   = "/run/cnitool"
	cniToolNotes = cniToolDir + "/verbs"
)

func newCNITool(t *testing.T, n *lab.Node, version, pod string) cniTool {
	t.Helper()
	files := map[string]string{
		cniToolDir + "/net.d/macvlan1.conflist": fmt.Sprintf(`{"cniVersion": %q, "name": "macvlan1", "plugins": [
			{"type": "macvlan", "master": "eth1", "ipam": {"type": "host-local", "subnet": "192.168.20.0/24",
				"rangeStart": "192.168.20.20", "rangeEnd": "192.168.20.200", "gateway": "192.168.20.1"}},
			{"type": "sluice", "vips": ["192.168.20.240-192.168.20.250"], "required": true}]}`, version),
		cniToolDir + "/bin/sluice": fmt.Sprintf("#!/bin/sh\necho $CNI_COMMAND >>%s\nexec %s/sluice\n",
			cniToolNotes, programs),
	}
	for file, text := range files {
		if err := os.MkdirAll(filepath.Dir(n.Root()+file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(n.Root()+file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return cniTool{node: n, version: version, pod: pod}
}

// play gives the version's row of the table. The column without an agent is left empty.
func (c cniTool) play(t *testing.T) []string {
	t.Helper()
	if err := c.node.Command(t.Context(), "ip", "netns", "add", c.pod).Run(); err != nil {
		t.Fatal(err)
	}
	row := []string{c.run(t, "add", "add"), c.run(t, "check", "check"), c.run(t, "status", "status")}
	file := c.mustSpooled(t, 1)[0]
	row = append(row, c.run(t, "gc", "gc"))
	c.mustSpooled(t, 0)

	mustBeOK(t, c.run(t, "add", "add"))
	row = append(row, c.run(t, "del", "del"))
	c.mustSpooled(t, 0)
	mustBeOK(t, c.run(t, "del", "del"))

	mustBeOK(t, c.run(t, "add", "add"))
	if err := os.RemoveAll(c.node.Root() + "/var/lib/cni/results"); err != nil {
		t.Fatal(err)
	}
	noMemory := c.run(t, "gc", "gc, no memory")
	c.mustSpooled(t, 1)
	mustBeOK(t, c.run(t, "del", "del"))
	c.mustSpooled(t, 0)

	mustBeOK(t, c.run(t, "add", "add"))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	row = append(row, c.run(t, "check", "check, no file"), "", noMemory)
	mustBeOK(t, c.run(t, "del", "del"))
	c.mustSpooled(t, 0)
	return row
}

func mustBeOK(t *testing.T, cell string) {
	t.Helper()
	if cell != "ok" {
		t.Fatalf("outcome: %s, want ok", cell)
	}
}

// mustSpooled gives the files of the node's spool.
func (c cniTool) mustSpooled(t *testing.T, count int) []string {
	t.Helper()
	files, err := filepath.Glob(c.node.Root() + api.SpoolDir + "/*")
	if err != nil || len(files) != count {
		t.Fatalf("spooled: %v, %v; want %d files", files, err, count)
	}
	return files
}

// run runs a verb and gives the table's cell. Where it is refused or fails, it checks that the reason is the column's.
func (c cniTool) run(t *testing.T, verb, column string) string {
	t.Helper()
	notes := c.node.Root() + cniToolNotes
	if err := os.Remove(notes); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := c.node.Command(t.Context(), "cnitool", verb, "macvlan1", "/run/netns/"+c.pod)
	cmd.Stderr = &stderr
	cmd.Env = append(cmd.Env, "CNI_IFNAME=net1", "NETCONFPATH="+cniToolDir+"/net.d",
		"CNI_PATH="+cniToolDir+"/bin:"+programs)
	runErr := cmd.Run()
	noted, err := os.ReadFile(notes)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	asked := strings.Join(strings.Fields(string(noted)), ", ")
	switch {
	case runErr != nil:
		if asked == "" {
			c.wantReason(t, "refused", stderr.String())
			return "refused"
		}
		c.wantReason(t, column+" fails", stderr.String())
		return "fails"
	case asked == "":
		return "skipped"
	case asked == strings.ToUpper(verb):
		return "ok"
	}
	return "ok: " + asked
}

// wantReason checks that cnitool says what verbWords does.
func (c cniTool) wantReason(t *testing.T, word, stderr string) {
	t.Helper()
	want := strings.Replace(verbWords[word], `"VERSION"`, fmt.Sprintf("%q", c.version), 1)
	before, after, _ := strings.Cut(want, "CONTAINER")
	for line := range strings.Lines(stderr) {
		if strings.HasPrefix(line, "Error: "+before) && strings.HasSuffix(line, after+"\n") {
			return
		}
	}
	t.Errorf("version %q, %s: cnitool says\n%s\nwant %s", c.version, word, stderr, want)
}
