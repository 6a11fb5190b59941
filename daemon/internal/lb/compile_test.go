// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/ether"
)

var update = flag.Bool("update", false, "rewrite the states in testdata")

// netips lets go-cmp compare addresses, which have no exported fields.
var netips = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

// Each file of testdata is one behaviour: a comment, a Snapshot as YAML, and the State that it compiles to as text.
func TestCompile(t *testing.T) {
	for _, file := range mustGlob(t, "testdata/*.txtar") {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			archive := mustParse(t, file)
			got := Compile(mustSnapshot(t, archive)).Text()
			if *update {
				mustReplace(t, file, archive, got)
				return
			}
			if diff := cmp.Diff(string(mustFile(t, archive, "state.txt")), got); diff != "" {
				t.Errorf("%s(-want +got; -update rewrites):\n%s", archive.Comment, diff)
			}
		})
	}
}

func TestStateDoesNotDependOnOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, file := range mustGlob(t, "testdata/*.txtar") {
		in := mustSnapshot(t, mustParse(t, file))
		want := Compile(in)
		for range 5 {
			shuffle(random, in)
			if diff := cmp.Diff(want, Compile(in), netips); diff != "" {
				t.Fatalf("%s: another order of the same facts gave another State:\n%s", file, diff)
			}
		}
	}
}

// shuffle changes the order of everything in a Snapshot whose order means nothing.
func shuffle(random *rand.Rand, in Snapshot) {
	for _, s := range in.Services {
		swap(random, s.VIPs)
		swap(random, s.Ports)
	}
	for _, s := range in.Slices {
		swap(random, s.Ports)
		swap(random, s.Endpoints)
	}
	for _, n := range in.Nodes {
		swap(random, n.Segments)
	}
	for _, l := range in.Links {
		swap(random, l.Addrs)
	}
	for _, a := range in.Attachments {
		swap(random, a.Addresses)
	}
	swap(random, in.Services)
	swap(random, in.Networks)
	swap(random, in.Slices)
	swap(random, in.Nodes)
	swap(random, in.Links)
	swap(random, in.Attachments)
	swap(random, in.Issues)
}

func swap[T any](random *rand.Rand, s []T) {
	random.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}

// What a node is, and which of its pods are attached, must not show in its tables: otherwise a flow moves with its VIP.
func TestAllNodesBuildOneTable(t *testing.T) {
	in := manyServices(3, 20)
	in.Links = []Link{{Name: "eth1", Index: 7, Up: true}}
	var want [][]uint32
	for _, node := range []string{"node-0", "node-1", "node-2", "elsewhere"} {
		in.Node = node
		var got [][]uint32
		for _, f := range Compile(in).Frontends {
			table := f.Table()
			if len(table) == 0 {
				t.Fatalf("%s has no table for %s", node, f.Addr)
			}
			got = append(got, table)
		}
		if want == nil {
			want = got
		}
		if !cmp.Equal(want, got) {
			t.Errorf("%s builds other tables", node)
		}
	}
}

func TestADrainingBackendLeavesTheOthersTheirSlots(t *testing.T) {
	in := manyServices(1, 5)
	before := Compile(in).Frontends[0]
	draining := 2
	in.Slices[0].Endpoints[draining].Terminating = true
	after := Compile(in).Frontends[0]
	if after.Backends[draining].State != BackendDraining {
		t.Fatalf("backend is %s", after.Backends[draining].State)
	}
	tableBefore, tableAfter := before.Table(), after.Table()
	moved := 0
	for slot := range tableBefore {
		was, is := before.Backends[tableBefore[slot]].Addr, after.Backends[tableAfter[slot]].Addr
		if is == before.Backends[draining].Addr {
			t.Fatalf("slot %d gives new flows to a draining backend", slot)
		}
		if was != before.Backends[draining].Addr && was != is {
			moved++
		}
	}
	if share := float64(moved) / float64(len(tableBefore)); share > 0.02 {
		t.Errorf("%.1f %% of the slots moved between backends that stay", 100*share)
	}
}

func TestOtherProtocolsAreReportedAndTheRestIsServed(t *testing.T) {
	in := manyServices(1, 1)
	const sctp = Protocol(132)
	in.Services[0].Ports = append(in.Services[0].Ports, ServicePort{Protocol: sctp, Port: 3868})
	got := Compile(in)
	want := []Issue{{
		Object: "Service default/service-00000", Reason: ReasonUnsupportedProtocol,
		Message: "port 3868 has protocol 132, which is not served in this version: only TCP and UDP are",
	}}
	if diff := cmp.Diff(want, got.Issues, netips); diff != "" {
		t.Error(diff)
	}
	if len(got.Frontends) != 1 || got.Frontends[0].Protocol != TCP {
		t.Errorf("frontends: %v", got.Frontends)
	}
}

func TestProtocolTextRoundTrips(t *testing.T) {
	for _, want := range []Protocol{TCP, UDP} {
		text, err := want.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Protocol
		if err := got.UnmarshalText(text); err != nil || got != want {
			t.Errorf("%s: got %s, %v", want, got, err)
		}
	}
	var p Protocol
	if err := p.UnmarshalText([]byte("SCTP")); err == nil {
		t.Error("SCTP was read although the datapath does not balance it")
	}
}

// manyServices gives Services of so many backends each, on one network, spread over three nodes; this one has no pods.
func manyServices(services, backends int) Snapshot {
	in := Snapshot{
		Node:     "node-a",
		Networks: []Network{{Name: "default/macvlan1", Segment: "eth1", Master: "eth1", Kind: "macvlan", Mode: "bridge"}},
		Nodes:    []Node{{Name: "node-a", Segments: []string{"eth1"}}},
		Links:    []Link{{Name: "eth1", Index: 7, MAC: ether.MAC{2, 0, 0, 0, 0, 1}, Up: true}},
	}
	for i := range services {
		name := fmt.Sprintf("service-%05d", i)
		in.Services = append(in.Services, Service{
			Namespace: "default", Name: name,
			VIPs:  []ServiceVIP{{Network: "default/macvlan1", Addr: netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)})}},
			Ports: []ServicePort{{Protocol: TCP, Port: 80}},
		})
		slice := Slice{
			Service: "default/" + name, Network: "default/macvlan1", Ports: []ServicePort{{Protocol: TCP, Port: 8080}},
		}
		for j := range backends {
			n := i*backends + j
			slice.Endpoints = append(slice.Endpoints, Endpoint{
				Addr:    netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}),
				MAC:     ether.MAC{2, 1, 0, byte(n >> 16), byte(n >> 8), byte(n)},
				Node:    fmt.Sprintf("node-%d", n%3),
				Pod:     api.Pod{Namespace: "default", Name: fmt.Sprintf("pod-%d", n), UID: fmt.Sprint(n)},
				Serving: true,
			})
		}
		in.Slices = append(in.Slices, slice)
	}
	return in
}

// BenchmarkCompile compiles 5,000 Services of 10 endpoints each: at start, and again after one of them lost an endpoint.
func BenchmarkCompile(b *testing.B) {
	in := manyServices(5000, 10)
	b.Run("start", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			Compile(in)
		}
	})
	b.Run("change", func(b *testing.B) {
		b.ReportAllocs()
		var c Compiler
		c.Compile(in)
		all := in.Slices[0].Endpoints
		for n := 0; b.Loop(); n++ {
			in.Slices[0].Endpoints = all[:len(all)-n%2]
			c.Compile(in)
		}
	})
}

func mustGlob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(files), err)
	}
	return files
}

func mustParse(t *testing.T, file string) *txtar.Archive {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

func mustFile(t *testing.T, archive *txtar.Archive, name string) []byte {
	t.Helper()
	i := slices.IndexFunc(archive.Files, func(f txtar.File) bool { return f.Name == name })
	if i < 0 {
		t.Fatalf("no %s in the archive", name)
	}
	return archive.Files[i].Data
}

func mustSnapshot(t *testing.T, archive *txtar.Archive) Snapshot {
	t.Helper()
	var in Snapshot
	if err := yaml.UnmarshalStrict(mustFile(t, archive, "snapshot.yaml"), &in); err != nil {
		t.Fatal(err)
	}
	return in
}

func mustReplace(t *testing.T, file string, archive *txtar.Archive, state string) {
	t.Helper()
	archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return f.Name == "state.txt" })
	archive.Files = append(archive.Files, txtar.File{Name: "state.txt", Data: []byte(state)})
	if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
		t.Fatal(err)
	}
}
