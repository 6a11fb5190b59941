// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
)

// manyServices gives what Compile makes of Services of so many backends each, spread over three nodes that are not this one.
func manyServices(b *testing.B, m lb.Master, services, backends int) lb.State {
	b.Helper()
	const network = "default/macvlan1"
	in := lb.Snapshot{
		Node:     "here",
		Networks: []lb.Network{{Name: network, Segment: m.Segment, Master: m.Name, Kind: "macvlan", Mode: "bridge"}},
		Nodes:    []lb.Node{{Name: "here", Segments: []string{m.Segment}}},
		Links:    []lb.Link{{Name: m.Name, Index: m.Index, MAC: m.MAC, Up: true}},
	}
	for i := range services {
		name := fmt.Sprintf("service-%05d", i)
		vip := netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)})
		in.Services = append(in.Services, lb.Service{
			Namespace: "default", Name: name, VIPs: []lb.ServiceVIP{{Network: network, Addr: vip}},
			Ports: []lb.ServicePort{{Protocol: lb.TCP, Port: 80}},
		})
		slice := lb.Slice{Service: "default/" + name, Network: network, Ports: []lb.ServicePort{{Protocol: lb.TCP, Port: 8080}}}
		for n := i * backends; n < (i+1)*backends; n++ {
			e := lb.Endpoint{Node: fmt.Sprintf("node-%d", n%3), Serving: true}
			e.Addr = netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
			e.MAC = ether.MAC{2, 1, 0, byte(n >> 16), byte(n >> 8), byte(n)}
			e.Pod.Namespace, e.Pod.Name = "default", fmt.Sprintf("pod-%d", n)
			slice.Endpoints = append(slice.Endpoints, e)
		}
		in.Slices = append(in.Slices, slice)
	}
	return lb.Compile(in)
}

// BenchmarkApply programs 5,000 Services of 10 backends each: at start, with the maps of an agent before, when nothing changed,
// and after one of them lost or got a backend. It has no sub-benchmarks, because they run in other threads than the node's.
func BenchmarkApply(b *testing.B) {
	node := newNode(b)
	m := node.addMaster("eth1")
	s := manyServices(b, m, 5000, 10)
	d := node.open(AttachAuto)
	measure := func(name string, rounds int, prepare func()) {
		prepare()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		cpu, began := cpuTime(b), time.Now()
		for range rounds {
			node.apply(d, s)
			prepare()
		}
		b.ReportMetric(float64(cpuTime(b)-cpu)/1e6/float64(rounds), name+"-cpu-ms/op")
		b.ReportMetric(float64(time.Since(began))/1e6/float64(rounds), name+"-ms/op")
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(rounds), name+"-allocs/op")
	}
	for b.Loop() {
		measure("start", 1, func() {})
		must(b, d.Close())
		d = node.open(AttachAuto)
		measure("again", 1, func() {})
		measure("same", 10, func() {})
		backends, n := s.Frontends[0].Backends, 0
		measure("change", 10, func() {
			n++
			s.Frontends = slices.Clone(s.Frontends)
			s.Frontends[0].Backends = backends[n%2:]
		})
	}
	runtime.GC()
	var heap runtime.MemStats
	runtime.ReadMemStats(&heap)
	b.ReportMetric(float64(heap.HeapAlloc)/1e6, "heap-MB")
	runtime.KeepAlive(d)
	runtime.KeepAlive(s)
}

// cpuTime gives the processor time that this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var ts unix.Timespec
	must(b, unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts))
	return time.Duration(ts.Nano())
}
