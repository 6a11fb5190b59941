// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/daemon/internal/dataplane/mirror"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// BackendKey names a backend of a frontend.
type BackendKey struct {
	Master   int // ifindex
	Protocol lb.Protocol
	Frontend netip.AddrPort
	Backend  netip.AddrPort
}

// Counters reads what this node sent towards each backend. It reads the kernel's maps only, so it may run beside Apply.
func (d *Dataplane) Counters() (map[BackendKey]api.Counters, error) {
	frontends := map[uint32]BackendKey{}
	var (
		key     bpf.LbServiceKey
		service bpf.LbService
		iter    = d.maps.Services.Iterate()
	)
	for iter.Next(&key, &service) {
		frontends[service.Id] = BackendKey{
			Master:   int(key.Ifindex),
			Protocol: lb.Protocol(key.Proto),
			Frontend: netip.AddrPortFrom(key.Addr.Addr(), bpf.NetworkPort(key.Port)),
		}
	}
	if err := iter.Err(); err != nil {
		return nil, fmt.Errorf("read services: %w", err)
	}
	counters := map[BackendKey]api.Counters{}
	var (
		id      uint32
		backend bpf.LbBackend
	)
	iter = d.maps.Backends.Iterate()
	for iter.Next(&id, &backend) {
		k, ok := frontends[backend.Service]
		if !ok {
			continue
		}
		k.Backend = netip.AddrPortFrom(backend.Addr.Addr(), bpf.NetworkPort(backend.Port))
		var perCPU []bpf.LbTraffic
		if err := d.maps.BackendStats.Lookup(id, &perCPU); err != nil {
			continue // the backend was removed since
		}
		counters[k] = sum(perCPU)
	}
	if err := iter.Err(); err != nil {
		return nil, fmt.Errorf("read backends: %w", err)
	}
	return counters, nil
}

func sum(perCPU []bpf.LbTraffic) api.Counters {
	var c api.Counters
	for _, t := range perCPU {
		c = c.Add(api.Counters{Connections: t.Flows, Packets: t.Packets, Bytes: t.Bytes})
	}
	return c
}

// statsStore keeps an entry of backend_stats for each backend. An entry that exists is never written: it counts.
type statsStore struct {
	m *ebpf.Map
}

func (s statsStore) All() (map[uint32]struct{}, error) {
	var (
		id     uint32
		perCPU []bpf.LbTraffic
		all    = map[uint32]struct{}{}
		iter   = s.m.Iterate()
	)
	for iter.Next(&id, &perCPU) {
		all[id] = struct{}{}
	}
	return all, iter.Err()
}

func (s statsStore) Put(id uint32, _ struct{}) error {
	return mirror.Explain(s.m, s.m.Put(id, make([]bpf.LbTraffic, ebpf.MustPossibleCPU())))
}

func (s statsStore) Delete(id uint32) error { return s.m.Delete(id) }

// Collector gives the programs' counters to Prometheus, read at each scrape.
func (d *Dataplane) Collector() prometheus.Collector {
	return &collector{
		d: d,
		packets: prometheus.NewDesc("sluice_dataplane_packets_total",
			"Packets by the direction of the hook and the reason of their fate.", []string{"direction", "reason"}, nil),
		flows: prometheus.NewDesc("sluice_dataplane_flow_entries",
			"Entries of confirmed TCP flows, two a connection, as last counted (every 10 s).", nil, nil),
		ahead: prometheus.NewDesc("sluice_dataplane_programs_ahead",
			"Programs of others that run before ours and may keep packets from it; sluicectl get issues names them.",
			[]string{"ifname", "direction"}, nil),
		retaken: prometheus.NewDesc("sluice_dataplane_places_retaken_total",
			"Times that our programs were moved to the head again, or attached again, after others had moved or removed them.",
			nil, nil),
		errors: prometheus.NewDesc("sluice_dataplane_collect_errors_total",
			"Scrapes at which the counters could not be read.", nil, nil),
	}
}

type collector struct {
	d                                      *Dataplane
	packets, flows, ahead, retaken, errors *prometheus.Desc
	failed                                 atomic.Int64
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.packets
	ch <- c.flows
	ch <- c.ahead
	ch <- c.retaken
	ch <- c.errors
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for dir := range bpf.LbDirectionDIRECTION_MAX {
		for reason := range bpf.LbReasonREASON_MAX {
			var perCPU []uint64
			slot := uint32(dir)*uint32(bpf.LbReasonREASON_MAX) + uint32(reason)
			if err := c.d.maps.Counters.Lookup(slot, &perCPU); err != nil {
				c.failed.Add(1)
				continue
			}
			var total uint64
			for _, n := range perCPU {
				total += n
			}
			ch <- prometheus.MustNewConstMetric(c.packets, prometheus.CounterValue, float64(total),
				directionName(dir), ReasonName(reason))
		}
	}
	ch <- prometheus.MustNewConstMetric(c.flows, prometheus.GaugeValue, float64(c.d.flowEntries.Load()))
	for _, a := range c.d.places.aheadNow() {
		ch <- prometheus.MustNewConstMetric(c.ahead, prometheus.GaugeValue, float64(a.programs), a.ifname, a.direction)
	}
	ch <- prometheus.MustNewConstMetric(c.retaken, prometheus.CounterValue, float64(c.d.places.retaken.Load()))
	ch <- prometheus.MustNewConstMetric(c.errors, prometheus.CounterValue, float64(c.failed.Load()))
}

// ReasonName gives a reason as metrics and people see it: "no_service".
func ReasonName(r bpf.LbReason) string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason_%d", r)
}

// reasonNames follows enum reason; a test compares it with the object's BTF.
var reasonNames = strings.Fields(`miss tagged flooded forwarded malformed arp_reply nd_reply echo_reply refused icmp_error
	new_flow local remote unnat turned_back to_node not_owner answer_limit icmp_unrelated no_service source no_backend
	not_selected fragment unsupported_protocol flows_full collision isolated no_port rewrite`)
