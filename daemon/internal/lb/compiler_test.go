// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/ether"
)

func TestCompilerCompilesOnlyWhatChanges(t *testing.T) {
	in := manyServices(2, 5)
	var c Compiler
	first := c.Compile(in)

	same := c.Compile(in)
	if &first.Frontends[0] != &same.Frontends[0] || &first.VIPs[0] != &same.VIPs[0] {
		t.Error("equal Snapshots were compiled twice")
	}

	in.Slices[1].Endpoints = in.Slices[1].Endpoints[:4]
	second := c.Compile(in)
	if &first.Frontends[0].Backends[0] != &second.Frontends[0].Backends[0] {
		t.Error("a Service that did not change was compiled again")
	}
	if diff := cmp.Diff(Compile(in), second, netips); diff != "" {
		t.Errorf("Compiler and Compile differ (-Compile +Compiler):\n%s", diff)
	}

	in.Services, in.Slices = in.Services[:1], in.Slices[:1]
	c.Compile(in)
	if len(c.services) != 1 || len(c.endpoints.slices) != 1 || len(c.endpoints.claims) != 5 || len(c.endpoints.byService) != 1 {
		t.Errorf("%d Services, %d slices, %d addresses are remembered of one Service with one slice of 5",
			len(c.services), len(c.endpoints.slices), len(c.endpoints.claims))
	}
}

// A field that they overlook would keep its change from the datapath.
func TestEqualLooksAtEveryField(t *testing.T) {
	expectEveryField(t, Service.equal)
	expectEveryField(t, Clients.Equal)
	expectEveryField(t, Frontend.Equal)
	expectEveryField(t, State.Equal)
}

func expectEveryField[T any](t *testing.T, equal func(T, T) bool) {
	t.Helper()
	for i := range reflect.TypeFor[T]().NumField() {
		var zero, changed T
		mustSet(t, reflect.ValueOf(&changed).Elem().Field(i))
		if equal(zero, changed) || equal(changed, zero) {
			t.Errorf("two of %T are equal that differ in %s", zero, reflect.TypeFor[T]().Field(i).Name)
		}
		if !equal(changed, changed) {
			t.Errorf("one of %T differs from itself in %s", zero, reflect.TypeFor[T]().Field(i).Name)
		}
	}
}

// mustSet gives a field another value than zero.
func mustSet(t *testing.T, field reflect.Value) {
	t.Helper()
	if field.Type() == reflect.TypeFor[netip.AddrPort]() {
		field.Set(reflect.ValueOf(netip.MustParseAddrPort("192.0.2.1:80")))
		return
	}
	switch field.Kind() {
	case reflect.String:
		field.SetString("x")
	case reflect.Bool:
		field.SetBool(true)
	case reflect.Int, reflect.Int64:
		field.SetInt(1)
	case reflect.Uint8, reflect.Uint32:
		field.SetUint(1)
	case reflect.Slice:
		field.Set(reflect.MakeSlice(field.Type(), 1, 1))
	case reflect.Struct:
		mustSet(t, field.Field(0))
	default:
		t.Fatalf("no value for %s is known: add one here", field.Type())
	}
}

// TestCompilerAgreesWithCompile edits a small world at random, so that everything collides: addresses, frontends, names.
func TestCompilerAgreesWithCompile(t *testing.T) {
	met := map[string]int{}
	for seed := range uint64(10) {
		w := newWorld(seed)
		var c Compiler
		for step := range 300 {
			did := w.edit()
			want, got := Compile(w.in), c.Compile(w.in)
			if diff := cmp.Diff(want, got, netips); diff != "" {
				t.Fatalf("seed %d, step %d, %s: Compiler and Compile differ (-Compile +Compiler):\n%s", seed, step, did, diff)
			}
			for _, issue := range want.Issues {
				met[issue.Reason]++
			}
		}
	}
	for _, reason := range []string{
		ReasonAddressInUse, ReasonDuplicateAddress, ReasonFrontendTaken, ReasonMACMissing, ReasonNoCommonNode, ReasonNotAttached,
		ReasonUnknownNetwork,
	} {
		if met[reason] == 0 {
			t.Errorf("no edit led to %s, so it is not compared", reason)
		}
	}
}

// world is what a random Snapshot is made of. Lists in it are replaced, never changed, as sources do.
type world struct {
	rand *rand.Rand
	in   Snapshot
}

func newWorld(seed uint64) *world {
	w := &world{rand: rand.New(rand.NewPCG(seed, 7))}
	w.in = Snapshot{
		Node: "node-0",
		Networks: []Network{
			{Name: "a/one", Segment: "eth1", Master: "eth1", Kind: "macvlan", Mode: "bridge"},
			{Name: "b/one", Segment: "eth1", Master: "eth1", Kind: "macvlan", Mode: "bridge"},
			{Name: "a/two", Segment: "eth2", Master: "eth2", Kind: "ipvlan", Mode: "l2"},
		},
		Nodes: []Node{
			{Name: "node-0", Segments: []string{"eth1", "eth2"}},
			{Name: "node-1", Segments: []string{"eth1"}, MACs: map[string]ether.MAC{"eth2": {2, 9, 0, 0, 0, 1}}},
		},
		Links: []Link{
			{Name: "eth1", Index: 1, MAC: ether.MAC{2, 8, 0, 0, 0, 1}, Up: true, Addrs: []netip.Addr{w.vip(0)}},
			{Name: "eth2", Index: 2, MAC: ether.MAC{2, 8, 0, 0, 0, 2}, Up: true},
		},
	}
	return w
}

func (w *world) network() string {
	return []string{"a/one", "a/one", "b/one", "a/two", "a/two", "a/none"}[w.rand.IntN(6)]
}
func (w *world) service() string      { return fmt.Sprintf("service-%d", w.rand.IntN(4)) }
func (w *world) vip(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }

// addr is now and then that of a VIP.
func (w *world) addr() netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, 0, byte(3 + w.rand.IntN(20))})
}

func (w *world) ports(target uint16) []ServicePort {
	out := []ServicePort{{Protocol: TCP, Port: target + uint16(w.rand.IntN(3))}}
	if w.rand.IntN(3) == 0 {
		out = append(out, ServicePort{Protocol: UDP, Port: target})
	}
	return out
}

// pod gives one of few pods; of one name there may be two.
func (w *world) pod() (api.Pod, ether.MAC, string) {
	n := w.rand.IntN(8)
	pod := api.Pod{Namespace: "default", Name: fmt.Sprintf("pod-%d", n), UID: fmt.Sprint(n, w.rand.IntN(8)/7)}
	mac := ether.MAC{2, 1, 0, 0, 0, byte(n)}
	if w.rand.IntN(10) == 0 {
		mac = ether.MAC{}
	}
	return pod, mac, fmt.Sprintf("node-%d", n%2)
}

// edit makes one change, and tells which.
func (w *world) edit() string {
	switch n := w.rand.IntN(20); {
	case n < 5:
		w.in.Services = replace(w, w.in.Services, 8, w.newService())
		return "a Service"
	case n < 12:
		w.in.Slices = replace(w, w.in.Slices, 14, w.newSlice())
		return "a slice"
	case n < 15:
		w.in.Attachments = replace(w, w.in.Attachments, 6, w.newAttachment())
		return "an attachment"
	case n == 15:
		w.in.Nodes = slices.Clone(w.in.Nodes)
		w.in.Nodes[1].Segments = []string{"eth1", "eth2"}[:w.rand.IntN(3)]
		return "a node"
	case n == 16:
		w.in.Links = slices.Clone(w.in.Links)
		w.in.Links[w.rand.IntN(2)].Epoch++
		return "an epoch"
	case n == 17:
		w.in.Links = slices.Clone(w.in.Links)
		w.in.Links[0].Addrs = []netip.Addr{w.vip(w.rand.IntN(8))}
		return "an address of the node"
	case n == 18:
		w.in.Networks = slices.Clone(w.in.Networks)
		w.in.Networks[2].Mode = []string{"l2", "l3", "unknown"}[w.rand.IntN(3)]
		return "a network"
	}
	swap(w.rand, w.in.Services)
	swap(w.rand, w.in.Slices)
	swap(w.rand, w.in.Attachments)
	return "the order"
}

// replace adds, removes or replaces an element of a list of so many at most.
func replace[T any](w *world, list []T, most int, element T) []T {
	list = slices.Clone(list)
	at := w.rand.IntN(most)
	switch {
	case at >= len(list):
		return append(list, element)
	case w.rand.IntN(3) == 0:
		return slices.Delete(list, at, at+1)
	}
	list[at] = element
	return list
}

func (w *world) newService() Service {
	s := Service{Namespace: "default", Name: w.service(), UID: fmt.Sprint(w.rand.IntN(2)), Ports: w.ports(80)}
	for range w.rand.IntN(3) {
		s.VIPs = append(s.VIPs, ServiceVIP{Network: w.network(), Addr: w.vip(w.rand.IntN(3))})
	}
	s.Clients.Affinity, s.Local, s.Created = uint32(w.rand.IntN(2)), w.rand.IntN(2) == 0, w.rand.Int64N(3)
	return s
}

func (w *world) newSlice() Slice {
	s := Slice{Service: "default/" + w.service(), Network: w.network(), Ports: w.ports(80)}
	if n := len(w.in.Slices); n > 0 && w.rand.IntN(4) == 0 { // of the same endpoints, as a source may reuse them
		s.Endpoints = w.in.Slices[w.rand.IntN(n)].Endpoints
		return s
	}
	for range w.rand.IntN(3) {
		e := Endpoint{Addr: w.addr(), Serving: w.rand.IntN(4) > 0, Terminating: w.rand.IntN(4) == 0}
		e.Pod, e.MAC, e.Node = w.pod()
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func (w *world) newAttachment() api.Attachment {
	a := api.Attachment{ContainerID: fmt.Sprint(w.rand.IntN(8)), IfName: "net1", Kind: "macvlan", Mode: "bridge", MasterIndex: 1}
	if w.rand.IntN(3) == 0 {
		a.Kind, a.Mode, a.MasterIndex = "ipvlan", "l2", 2
	}
	a.Pod, a.MAC, _ = w.pod()
	a.Addresses = []netip.Prefix{netip.PrefixFrom(w.addr(), 24)}
	return a
}
