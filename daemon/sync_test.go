// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/daemon/internal/announce"
	"github.com/sluice-lb/sluice/daemon/internal/dataplane"
	"github.com/sluice-lb/sluice/daemon/internal/kube/apiserver"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

// bench is a pipeline between facts and a datapath that only notes what it is asked to do.
type bench struct {
	pipeline
	in        lb.Snapshot
	refusal   error      // of the datapath
	onNode    []lb.Issue // found by the datapath
	applied   []lb.State
	announced []announce.VIP
	facts     apiserver.Facts
	told      []string
	logged    bytes.Buffer
}

func newBench() *bench {
	b := &bench{in: lb.Snapshot{
		Node: "a",
		Services: []lb.Service{{
			Namespace: "default", Name: "web", Ports: []lb.ServicePort{{Protocol: lb.TCP, Port: 80}},
			VIPs: []lb.ServiceVIP{{Network: "default/macvlan1", Addr: netip.MustParseAddr("192.168.20.240")}},
		}},
		Networks: []lb.Network{{Name: "default/macvlan1", Segment: "eth1", Master: "eth1", Kind: "macvlan", Mode: "bridge"}},
		Nodes:    []lb.Node{{Name: "a", Segments: []string{"eth1"}}},
		Links:    []lb.Link{{Name: "eth1", Index: 3, MAC: ether.MAC{2, 0, 0, 0, 0, 1}, Up: true, Epoch: 1}},
	}}
	b.pipeline = pipeline{
		snapshot: func() lb.Snapshot { return b.in },
		apply: func(_ context.Context, s lb.State) error {
			b.applied = append(b.applied, s)
			return b.refusal
		},
		found:    func() []lb.Issue { return b.onNode },
		announce: func(vips []announce.VIP) { b.announced = vips },
		publish:  func(f apiserver.Facts) { b.facts = f },
		events:   (*toldEvents)(&b.told),
		log: slog.New(slog.NewTextHandler(&b.logged, &slog.HandlerOptions{
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey || a.Key == "took" {
					return slog.Attr{}
				}
				return a
			},
		})),
	}
	return b
}

// mustSyncSilently syncs, whatever is logged.
func (b *bench) mustSyncSilently(t *testing.T) {
	t.Helper()
	if err := b.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// mustSync syncs and expects what is logged meanwhile.
func (b *bench) mustSync(t *testing.T, wantLog string) {
	t.Helper()
	b.logged.Reset()
	b.mustSyncSilently(t)
	if diff := cmp.Diff(wantLog, b.logged.String()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func (b *bench) expectAnnounced(t *testing.T, want ...announce.VIP) {
	t.Helper()
	if diff := cmp.Diff(want, b.announced, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("announced (-want +got):\n%s", diff)
	}
}

var ours = announce.VIP{
	IfIndex: 3, IfName: "eth1", MAC: ether.MAC{2, 0, 0, 0, 0, 1}, Addr: netip.MustParseAddr("192.168.20.240"), Epoch: 1,
}

func TestEachSyncAppliesAndOnlyChangesAreLogged(t *testing.T) {
	b := newBench()
	b.mustSync(t, `level=INFO msg=VIP vip=192.168.20.240 ifname=eth1 owner=a before=""
level=INFO msg=applied masters=1 pods=0 vips=1 frontends=1 backends=0 issues=0
`)
	b.expectAnnounced(t, ours)
	b.mustSync(t, "")
	if len(b.applied) != 2 {
		t.Errorf("applied %d times, want each time: somebody else may have changed the kernel", len(b.applied))
	}
	if diff := cmp.Diff(b.applied[1].Text(), b.State().Text()); diff != "" {
		t.Errorf("State is not what was applied: %s", diff)
	}
}

func TestAnIssueIsLoggedWhenItAppearsAndWhenItIsGone(t *testing.T) {
	b := newBench()
	b.mustSync(t, `level=INFO msg=VIP vip=192.168.20.240 ifname=eth1 owner=a before=""
level=INFO msg=applied masters=1 pods=0 vips=1 frontends=1 backends=0 issues=0
`)
	issue := lb.Issue{Object: "Service default/bad", Reason: "Wrong", Message: "correct it"}
	b.in.Issues = []lb.Issue{issue}
	b.mustSync(t, `level=WARN msg="correct it" object="Service default/bad" reason=Wrong
level=INFO msg=applied masters=1 pods=0 vips=1 frontends=1 backends=0 issues=1
`)
	b.mustSync(t, "")
	b.in.Issues = nil
	b.mustSync(t, `level=INFO msg="issue is gone" object="Service default/bad" reason=Wrong
level=INFO msg=applied masters=1 pods=0 vips=1 frontends=1 backends=0 issues=0
`)
}

func TestWhatTheDatapathFindsIsAnIssueLikeOthers(t *testing.T) {
	b := newBench()
	var refused *api.Error
	if _, err := b.issues(); !errors.As(err, &refused) || refused.Code != api.CodeTryAgain {
		t.Errorf("before the first sync: %v", err)
	}
	b.mustSync(t, `level=INFO msg=VIP vip=192.168.20.240 ifname=eth1 owner=a before=""
level=INFO msg=applied masters=1 pods=0 vips=1 frontends=1 backends=0 issues=0
`)
	b.in.Issues = []lb.Issue{{Object: "Service default/bad", Reason: "Wrong", Message: "correct it"}}
	b.onNode = []lb.Issue{{Object: "Interface eth1", Reason: "ProgramAhead", Message: "move it"}}
	b.refusal = errors.New("another instance") // what was found then counts all the same
	b.logged.Reset()
	if err := b.sync(t.Context()); !errors.Is(err, b.refusal) {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`level=WARN msg="correct it" object="Service default/bad" reason=Wrong
level=WARN msg="move it" object="Interface eth1" reason=ProgramAhead
`, b.logged.String()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	want := []api.Issue{
		{Object: "Service default/bad", Reason: "Wrong", Message: "correct it"},
		{Object: "Interface eth1", Reason: "ProgramAhead", Message: "move it"},
	}
	got, err := b.issues()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
		t.Errorf("issues (-want +got):\n%s%v", diff, err)
	}
	b.refusal, b.onNode = nil, nil
	b.mustSync(t, `level=INFO msg="issue is gone" object="Interface eth1" reason=ProgramAhead
level=INFO msg=applied masters=1 pods=0 vips=1 frontends=1 backends=0 issues=1
`)
}

func TestAVIPThatMovesIsLoggedAndNotAnnouncedAnyMore(t *testing.T) {
	b := newBench()
	if err := b.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.in.Nodes = []lb.Node{{Name: "b", Segments: []string{"eth1"}}}
	b.mustSync(t, `level=INFO msg=VIP vip=192.168.20.240 ifname=eth1 owner=b before=a
level=INFO msg=applied masters=1 pods=0 vips=1 frontends=1 backends=0 issues=0
`)
	b.expectAnnounced(t)
	b.in.Services = nil
	b.mustSync(t, `level=INFO msg="VIP is gone" vip=192.168.20.240 ifname=eth1 before=b
level=INFO msg=applied masters=1 pods=0 vips=0 frontends=0 backends=0 issues=0
`)
}

func TestAMasterThatIsDownIsReportedAndNotAnnounced(t *testing.T) {
	b := newBench()
	if err := b.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.in.Links[0].Up, b.in.Links[0].Epoch = false, 2
	const why = "it is down or has no carrier, so neither the VIPs of node a on segment eth1 nor its pods there can be " +
		"reached: set it up, or look at the cable and the switch"
	b.mustSync(t, `level=WARN msg="`+why+`" object="Interface eth1" reason=MasterDown
level=INFO msg=applied masters=1 pods=0 vips=1 frontends=1 backends=0 issues=1
`)
	b.expectAnnounced(t)
	if s := b.State(); s.Masters[0].Up || !s.VIPs[0].Owned {
		t.Errorf("the state is %s, want a master that is down, and its VIP ready for its return", s.Text())
	}
	b.in.Links[0].Up = true
	b.mustSync(t, `level=INFO msg="issue is gone" object="Interface eth1" reason=MasterDown
level=INFO msg=applied masters=1 pods=0 vips=1 frontends=1 backends=0 issues=0
`)
	again := ours
	again.Epoch = 2
	b.expectAnnounced(t, again)
}

func TestAnnouncementsFollowTheMaster(t *testing.T) {
	b := newBench()
	for _, tt := range []struct {
		name   string
		change func(*lb.Link, *announce.VIP)
	}{
		{"nothing", func(*lb.Link, *announce.VIP) {}},
		{"MTU", func(l *lb.Link, _ *announce.VIP) { l.MTU = 9000 }},
		{"MAC", func(l *lb.Link, v *announce.VIP) { l.MAC[5], v.MAC[5] = 9, 9 }},
		{"away for a moment", func(l *lb.Link, v *announce.VIP) { l.Epoch, v.Epoch = 5, 5 }},
		{"another number", func(l *lb.Link, v *announce.VIP) { l.Index, v.IfIndex = 8, 8 }},
	} {
		want := ours
		b.in.Links[0] = newBench().in.Links[0]
		tt.change(&b.in.Links[0], &want)
		if err := b.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Log(tt.name)
		b.expectAnnounced(t, want)
	}
	b.in.Links[0].Name = "eth9"
	if err := b.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.expectAnnounced(t)
}

// Pods that hear no ARP cannot tell their neighbours that they are there.
func TestPodsInModeL3AreAnnounced(t *testing.T) {
	for mode, announced := range map[string]bool{"l2": false, "l3": true, "l3s": true} {
		b := newBench()
		b.in.Networks[0].Kind, b.in.Networks[0].Mode = "ipvlan", mode
		b.in.Attachments = []api.Attachment{{
			ContainerID: "c1", IfName: "net1", Network: "macvlan1", Pod: api.Pod{Namespace: "default", Name: "web1"},
			Kind: "ipvlan", Mode: mode, MAC: b.in.Links[0].MAC, Master: "eth1", MasterIndex: 3, Netns: "/run/netns/1",
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.20.21/24"), netip.MustParsePrefix("fd00:20::21/64")},
		}}
		want := []announce.VIP{ours}
		for _, addr := range []string{"192.168.20.21", "fd00:20::21"} {
			pod := ours
			pod.Addr = netip.MustParseAddr(addr)
			if announced {
				want = append(want, pod)
			}
		}
		if err := b.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Log(mode)
		b.expectAnnounced(t, want...)
	}
}

func TestANodeIsReadyOnceTheDatapathTookAState(t *testing.T) {
	b := newBench()
	if b.Ready() == nil {
		t.Error("ready before the first sync")
	}
	b.refusal = errors.New("no memory")
	if err := b.sync(t.Context()); !errors.Is(err, b.refusal) {
		t.Errorf("sync = %v", err)
	}
	if b.Ready() == nil {
		t.Error("ready although the datapath refused")
	}
	b.expectAnnounced(t, ours) // nobody else would serve it
	b.refusal = nil
	b.mustSync(t, "level=INFO msg=applied masters=1 pods=0 vips=1 frontends=1 backends=0 issues=0\n")
	if err := b.Ready(); err != nil {
		t.Error(err)
	}
	b.refusal = errors.New("no memory")
	if err := b.sync(t.Context()); err == nil || b.Ready() != nil {
		t.Error("a later failure must be returned, and the node serves on")
	}
}

func TestServicesCarryTheDatapathsCounters(t *testing.T) {
	b := newBench()
	backend := netip.MustParseAddrPort("192.168.20.21:8080")
	b.in.Slices = []lb.Slice{{
		Service: "default/web", Network: "default/macvlan1", Ports: []lb.ServicePort{{Protocol: lb.TCP, Port: backend.Port()}},
		Endpoints: []lb.Endpoint{
			{Addr: backend.Addr(), MAC: ether.MAC{2, 0, 0, 0, 0, 0x21}, Node: "b", Serving: true},
			{Addr: backend.Addr().Next(), MAC: ether.MAC{2, 0, 0, 0, 0, 0x22}, Node: "b", Serving: true},
		},
	}}
	sent := api.Counters{Connections: 3, Packets: 20, Bytes: 5000}
	read := func() (map[dataplane.BackendKey]api.Counters, error) {
		return map[dataplane.BackendKey]api.Counters{
			{Master: 3, Protocol: lb.TCP, Frontend: netip.MustParseAddrPort("192.168.20.240:80"), Backend: backend}: sent,
			{Master: 3, Protocol: lb.UDP, Frontend: netip.MustParseAddrPort("192.168.20.240:80"), Backend: backend}: {Packets: 1},
		}, nil
	}
	var refused *api.Error
	if _, err := b.services(read); !errors.As(err, &refused) || refused.Code != api.CodeTryAgain {
		t.Errorf("before the first sync: %v", err)
	}
	if err := b.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows, err := b.services(read)
	if err != nil || len(rows) != 1 || len(rows[0].Backends) != 2 {
		t.Fatalf("rows %+v, %v", rows, err)
	}
	if got := rows[0].Counters; got != sent {
		t.Errorf("the Service's counters are %+v", got)
	}
	if got := rows[0].Backends[1].Counters; got != (api.Counters{}) {
		t.Errorf("a backend that sent nothing counts %+v", got)
	}
	broken := errors.New("no map")
	failing := func() (map[dataplane.BackendKey]api.Counters, error) { return nil, broken }
	if _, err := b.services(failing); !errors.Is(err, broken) {
		t.Errorf("without counters: %v", err)
	}
}
