// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// planner plans like NewPlan, and remembers the last plan. While only pods and EndpointSlices change, it does over what the
// Services do that these concern: VIPs do not depend on them. Objects are immutable, so one at the same address is the same.
type planner struct {
	opts kube.Options

	objects  kube.Objects // that the last plan was made of; nothing below holds before the first
	networks []kube.Network
	pods     podSet
	vips     *allocator
	claims   []*coordinationv1.Lease
	requests []kube.Request    // the oldest first
	byName   []int             // requests by name, in which order their parts are sorted already
	others   []*corev1.Service // statuses of Services that get no VIP
	issues   []lb.Issue        // of all but Pods and the Services of requests
	slices   serviceSlices
	asking   map[label][]int // requests by one label of their selectors; the zero label for those without
	results  []result        // by request
}

// result is what came out for one request.
type result struct {
	slices []*discoveryv1.EndpointSlice
	status *corev1.Service
	issues []lb.Issue
	// strangers tells that a slice of the Service names a pod that it does not select. Any pod may be that one.
	strangers bool
}

func newPlanner(opts kube.Options) *planner { return &planner{opts: opts} }

// plan decides. The objects must be sorted, as a source's are.
func (p *planner) plan(objects kube.Objects, now time.Time) Plan {
	if p.vips == nil || !p.follow(objects, now) {
		p.anew(objects, now)
	}
	return p.assemble()
}

// anew forgets the last plan.
func (p *planner) anew(objects kube.Objects, now time.Time) {
	*p = planner{opts: p.opts, objects: objects}
	var issues []lb.Issue
	p.networks, issues = objects.ParseNetworks()
	p.issues = slices.Concat(objects.Issues, issues)
	for _, svc := range objects.Services {
		if request, ours := p.opts.Request(svc); ours && request.Yields {
			p.issues = append(p.issues, request.Issues...)
			p.others = append(p.others, yieldingStatus(request, now))
		} else if ours {
			p.requests = append(p.requests, request)
		} else if status, changed := withoutStatus(svc); changed {
			p.others = append(p.others, status)
		}
	}
	slices.SortStableFunc(p.requests, olderFirst)
	p.byName = make([]int, len(p.requests))
	for i := range p.byName {
		p.byName[i] = i
	}
	slices.SortFunc(p.byName, func(a, b int) int { return byName(p.requests[a].Service, p.requests[b].Service) })
	p.asking = map[label][]int{}
	for i, r := range p.requests {
		at := asked(r)
		p.asking[at] = append(p.asking[at], i)
	}
	p.pods = readPods(objects.Pods, objects.Nodes, p.networks)
	p.vips = newAllocator(objects, p.networks, p.pods)
	p.vips.allocate(p.requests)
	p.claims = p.vips.leases()
	p.issues = append(p.issues, p.vips.issues...)
	p.slices = serviceSlices{own: map[string][]*discoveryv1.EndpointSlice{}, written: map[string][]*discoveryv1.EndpointSlice{}}
	for _, slice := range objects.Slices {
		p.slices.add(slice)
	}
	p.results = make([]result, len(p.requests))
	for i := range p.requests {
		p.results[i] = p.decide(p.requests[i], now)
	}
}

// asked gives one label of those that a Service selects pods by, the same each time.
func asked(r kube.Request) label {
	var first label
	for key, value := range r.Service.Spec.Selector {
		if first.key == "" || key < first.key {
			first = label{r.Service.Namespace, key, value}
		}
	}
	return first
}

// decide gives a Service its slices and its status.
func (p *planner) decide(r kube.Request, now time.Time) result {
	s := slicer{Request: r, served: p.vips.served(r), networks: p.vips.usable(r), pods: p.pods}
	own := p.slices.own[r.Name()]
	made, issues := s.slices(own, p.slices.written[r.Name()])
	issues = slices.Concat(r.Issues, p.vips.refused[r.Name()], p.vips.noted[r.Name()], issues)
	return result{
		slices: made, status: withStatus(r, p.vips, issues, now), issues: issues,
		strangers: len(r.Service.Spec.Selector) == 0 || hasStrangers(r, own, p.pods),
	}
}

// hasStrangers tells whether slices name a pod that a Service does not select now.
func hasStrangers(r kube.Request, own []*discoveryv1.EndpointSlice, pods podSet) bool {
	for _, slice := range own {
		for _, e := range slice.Endpoints {
			if e.TargetRef == nil {
				continue
			}
			p := pods.named[e.TargetRef.Namespace+"/"+e.TargetRef.Name]
			if p == nil || p.UID != e.TargetRef.UID || !selects(r.Service, p.Pod) {
				return true
			}
		}
	}
	return false
}

// follow brings the last plan up to date, and tells whether it could: if not, it is broken.
func (p *planner) follow(objects kube.Objects, now time.Time) bool {
	before := p.objects
	if !slices.Equal(before.Services, objects.Services) || !slices.Equal(before.Networks, objects.Networks) ||
		!slices.Equal(before.Leases, objects.Leases) || !slices.Equal(before.Nodes, objects.Nodes) ||
		!slices.Equal(before.Issues, objects.Issues) {
		return false
	}
	p.objects = objects
	concerned := map[int]bool{}
	gone, come := difference(before.Pods, objects.Pods)
	for _, pod := range slices.Concat(gone, come) {
		p.concern(pod, concerned)
	}
	if !p.pods.replace(gone, come) || p.areInPools(gone) || p.areInPools(come) {
		return false
	}
	changed := map[string]bool{} // Services
	goneSlices, comeSlices := difference(before.Slices, objects.Slices)
	for _, slice := range goneSlices {
		changed[p.slices.remove(slice)] = true
	}
	for _, slice := range comeSlices {
		changed[p.slices.add(slice)] = true
	}
	anyPod := len(gone)+len(come) > 0
	for i, r := range p.requests {
		if same := !anyPod || !p.results[i].strangers; same && !concerned[i] && !changed[r.Name()] {
			continue
		}
		last := p.results[i].status
		p.results[i] = p.decide(r, now)
		if sameStatus(last, p.results[i].status) {
			p.results[i].status = last
		}
	}
	return true
}

// concern notes the requests that select a pod.
func (p *planner) concern(pod *corev1.Pod, concerned map[int]bool) {
	for key, value := range pod.Labels {
		for _, i := range p.asking[label{pod.Namespace, key, value}] {
			if selects(p.requests[i].Service, pod) {
				concerned[i] = true
			}
		}
	}
}

// areInPools tells whether a Pod may have an address that could else be a VIP.
func (p *planner) areInPools(pods []*corev1.Pod) bool {
	for _, pod := range pods {
		attachments, err := kube.ParseNetworkStatus(pod.Annotations[networkStatus])
		if err != nil {
			continue // and has none
		}
		for _, attachment := range attachments {
			for _, addr := range attachment.Addrs {
				for _, network := range p.networks {
					if network.Settings.VIPs.Contains(addr) {
						return true
					}
				}
			}
		}
	}
	return false
}

// assemble puts the parts together.
func (p *planner) assemble() Plan {
	plan := Plan{Claims: p.claims, Issues: slices.Clone(p.issues), Statuses: slices.Clone(p.others)}
	for _, issues := range p.pods.issues {
		plan.Issues = append(plan.Issues, issues...)
	}
	for _, i := range p.byName { // sorting what is sorted costs one look at each
		r := p.results[i]
		plan.Slices = append(plan.Slices, r.slices...)
		plan.Statuses = append(plan.Statuses, r.status)
		plan.Issues = append(plan.Issues, r.issues...)
	}
	kube.SortIssues(plan.Issues)
	plan.Issues = slices.Compact(plan.Issues)
	slices.SortFunc(plan.Statuses, byName[*corev1.Service])
	slices.SortFunc(plan.Slices, byName[*discoveryv1.EndpointSlice])
	return plan
}

// serviceSlices are the EndpointSlices that count, by Service and sorted by name.
type serviceSlices struct {
	own, written map[string][]*discoveryv1.EndpointSlice
}

// of gives the list that a slice belongs into, and the Service; nil for a slice that does not count.
func (s serviceSlices) of(slice *discoveryv1.EndpointSlice) (map[string][]*discoveryv1.EndpointSlice, string) {
	if kube.OwnSlice(slice) {
		return s.own, kube.SliceService(slice)
	}
	if service, ok := kube.WrittenFor(slice); ok {
		return s.written, service
	}
	return nil, ""
}

// add adds a slice, and names its Service.
func (s serviceSlices) add(slice *discoveryv1.EndpointSlice) string {
	list, service := s.of(slice)
	if list != nil {
		at, _ := slices.BinarySearchFunc(list[service], slice, byName[*discoveryv1.EndpointSlice])
		list[service] = slices.Insert(list[service], at, slice)
	}
	return service
}

// remove removes a slice, and names its Service.
func (s serviceSlices) remove(slice *discoveryv1.EndpointSlice) string {
	list, service := s.of(slice)
	if list != nil {
		list[service] = slices.DeleteFunc(list[service], func(o *discoveryv1.EndpointSlice) bool { return o == slice })
	}
	return service
}

// difference gives what is only in one of two sorted lists; an object that was replaced is in both answers.
func difference[T kube.Object](before, after []T) (gone, come []T) {
	for len(before) > 0 && len(after) > 0 {
		if any(before[0]) == any(after[0]) {
			before, after = before[1:], after[1:]
			continue
		}
		order := byName(before[0], after[0])
		if order <= 0 {
			gone, before = append(gone, before[0]), before[1:]
		}
		if order >= 0 {
			come, after = append(come, after[0]), after[1:]
		}
	}
	return append(gone, before...), append(come, after...)
}
