// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"maps"
	"slices"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// Converter converts like Objects.Snapshot, and remembers what each object gave: what is the same pointer as the last time is
// not read again, because Objects are immutable. It is not safe for concurrent use. Its Snapshots share memory, so nobody may
// change them.
type Converter struct {
	options  Options
	services memory[*corev1.Service, lb.Service]
	networks memory[*nadv1.NetworkAttachmentDefinition, lb.Network]
	slices   memory[*discoveryv1.EndpointSlice, lb.Slice]
	claims   memory[*coordinationv1.Lease, Claim]
	served   served
	nodes    nodes
}

// served is what Services, networks and claims together gave.
type served struct {
	services []lb.Service // that it was made from
	networks []lb.Network // and these
	claims   []Claim      // and these
	values   []lb.Service
}

// nodes is what the nodes' facts gave. They change seldom, and depend on each other: so they are read together.
type nodes struct {
	leases []*coordinationv1.Lease // that it was read from
	nodes  []*corev1.Node          // and these
	values []lb.Node
	issues []lb.Issue
}

// NewConverter makes a converter that remembers nothing yet.
func NewConverter(opts Options) *Converter { return &Converter{options: opts} }

// Snapshot is like Objects.Snapshot.
func (c *Converter) Snapshot(o Objects) lb.Snapshot {
	var issues [5][]lb.Issue
	out := lb.Snapshot{}
	var services []lb.Service
	var claims []Claim
	services, issues[0] = c.services.convert(o.Services, c.options.convertService)
	out.Networks, issues[1] = c.networks.convert(o.Networks, convertNetwork)
	out.Slices, issues[2] = c.slices.convert(o.Slices, convertSlice)
	claims, issues[4] = c.claims.convert(o.Leases, convertClaim)
	if !isSame(services, c.served.services) || !isSame(out.Networks, c.served.networks) || !isSame(claims, c.served.claims) {
		c.served = served{services, out.Networks, claims, giveVIPs(services, out.Networks, claims)}
	}
	out.Services = c.served.values
	if !slices.Equal(o.Leases, c.nodes.leases) || !slices.Equal(o.Nodes, c.nodes.nodes) {
		values, issues := o.convertNodes()
		c.nodes = nodes{o.Leases, o.Nodes, values, issues}
	}
	out.Nodes, issues[3] = c.nodes.values, c.nodes.issues
	out.Issues = slices.Concat(o.Issues, slices.Concat(issues[:]...))
	SortIssues(out.Issues)
	return out
}

// isSame tells whether two slices lie at the same place, where nobody changes what lies there.
func isSame[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

// memory is what objects of one kind gave.
type memory[O comparable, V any] struct {
	known  map[O]*conversion[V]
	pass   uint64
	values []V // of the last pass
}

// conversion is what one object gave.
type conversion[V any] struct {
	value  *V // nil if the object is not ours, or cannot be used
	issues []lb.Issue
	pass   uint64 // that saw the object last
}

// convert gives the values of the objects, in their order. Each object may occur once.
func (m *memory[O, V]) convert(objects []O, convert func(O) (*V, []lb.Issue)) (values []V, issues []lb.Issue) {
	if m.known == nil {
		m.known = make(map[O]*conversion[V], len(objects))
	}
	m.pass++
	before, same := len(m.known), true
	seen := make([]*conversion[V], len(objects))
	for i, object := range objects {
		c := m.known[object]
		if c == nil {
			c, same = &conversion[V]{}, false
			c.value, c.issues = convert(object)
			m.known[object] = c
		}
		c.pass, seen[i] = m.pass, c
		issues = append(issues, c.issues...)
	}
	if same && before == len(objects) {
		return m.values, issues // the same objects, and they are sorted
	}
	if len(m.known) > len(objects) {
		maps.DeleteFunc(m.known, func(_ O, c *conversion[V]) bool { return c.pass != m.pass })
	}
	m.values = make([]V, 0, len(objects))
	for _, c := range seen {
		if c.value != nil {
			m.values = append(m.values, *c.value)
		}
	}
	return m.values, issues
}
