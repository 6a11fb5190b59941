// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	cnitypes "github.com/containernetworking/cni/pkg/types"
)

// stepNetwork is a NAD, and what ADD does on it.
type stepNetwork struct {
	name    string
	version string // of CNI; GC has come with 1.1.0
	master  string
	ranges  string // of host-local
	sluice  string // the settings
	after   string // what is chained after sluice
}

// Networks, by what is special about them.
var (
	plainNetwork = &stepNetwork{
		name: "macvlan1", version: "1.1.0", master: "eth1",
		ranges: `[{"subnet": "192.168.20.0/24", "rangeStart": "192.168.20.20", "rangeEnd": "192.168.20.200", "gateway": "192.168.20.1"}], ` +
			`[{"subnet": "fd00:20::/64", "rangeStart": "fd00:20::20", "rangeEnd": "fd00:20::cf", "gateway": "fd00:20::1"}]`,
		sluice: `"vips": ["192.168.20.240-192.168.20.250", "fd00:20::f0/124"]`,
	}
	secondNetwork = &stepNetwork{
		name: "second", version: "1.1.0", master: "eth2",
		ranges: `[{"subnet": "10.30.0.0/16", "rangeStart": "10.30.1.0", "rangeEnd": "10.30.1.80", "gateway": "10.30.0.1"}]`,
		sluice: `"vips": ["10.30.2.0/28"]`,
	}
	smallNetwork = &stepNetwork{ // has three addresses
		name: "small", version: "1.0.0", master: "eth2",
		ranges: `[{"subnet": "10.31.0.0/16", "rangeStart": "10.31.0.2", "rangeEnd": "10.31.0.4"}]`,
		sluice: `"replyRouting": false`,
	}
	goingNetwork = &stepNetwork{ // its master comes and goes, and it needs the agent
		name: "going", version: "1.1.0", master: "eth3",
		ranges: `[{"subnet": "10.33.0.0/16", "rangeEnd": "10.33.1.0"}]`,
		sluice: `"required": true, "vips": ["10.33.2.0/28"]`,
	}
	brokenNetwork = &stepNetwork{ // what is chained after sluice fails
		name: "broken", version: "1.0.0", master: "eth1", ranges: `[{"subnet": "10.34.0.0/16"}]`, sluice: `"vips": []`,
		after: `, {"type": "macvlan", "master": "nosuch0"}`,
	}
	stepNetworks = []*stepNetwork{plainNetwork, secondNetwork, smallNetwork, goingNetwork, brokenNetwork}
)

// podNetworks are what pods attach to, each as often as it is here.
var podNetworks = [][]*stepNetwork{
	{plainNetwork},
	{plainNetwork},
	{plainNetwork},
	{plainNetwork},
	{secondNetwork},
	{secondNetwork},
	{plainNetwork, secondNetwork},
	{plainNetwork, secondNetwork},
	{secondNetwork, secondNetwork},
	{smallNetwork},
	{smallNetwork},
	{goingNetwork},
	{goingNetwork},
	{plainNetwork, goingNetwork},
	{brokenNetwork},
}

// manifest gives the NAD's file and content.
func (n *stepNetwork) manifest() (name, text string) {
	return "nad-" + n.name + ".yaml", fmt.Sprintf(`
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: %[1]s, namespace: default}
spec:
  config: |
    {"cniVersion": %[2]q, "name": %[1]q, "plugins": [
      {"type": "macvlan", "master": %[3]q, "mode": "bridge", "ipam": {"type": "host-local", "ranges": [%[4]s]}},
      {"type": "sluice", %[5]s}%[6]s]}
`, n.name, n.version, n.master, n.ranges, n.sluice, n.after)
}

func (n *stepNetwork) file() string {
	name, _ := n.manifest()
	return name
}

// routed gives how many addresses of an interface have reply routing.
func (n *stepNetwork) routed() int {
	switch n {
	case plainNetwork:
		return 2
	case smallNetwork:
		return 0
	}
	return 1
}

const factsManifest = `
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata:
  name: node1
  namespace: sluice-system
  labels: {sluice-lb.io/node-facts: "true"}
  annotations: {sluice-lb.io/segments: "eth1, eth2, eth3"}
`

// stepServices are Services: the networks that they are on, and the pods that they select by the label app.
var stepServices = []struct {
	name, app string
	families  string
	networks  []*stepNetwork
}{
	{"web", "a", "RequireDualStack", []*stepNetwork{plainNetwork}},
	{"both", "b", "SingleStack", []*stepNetwork{plainNetwork, secondNetwork, goingNetwork}},
}

// stepManifest is a file.
type stepManifest struct{ name, text string }

// stepManifests are what is there besides the NADs.
var stepManifests = func() []stepManifest {
	all := []stepManifest{{"facts.yaml", factsManifest}}
	for _, svc := range stepServices {
		var networks []string
		for _, nw := range svc.networks {
			networks = append(networks, nw.name)
		}
		all = append(all, stepManifest{"svc-" + svc.name + ".yaml", fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: default, annotations: {sluice-lb.io/networks: %q}}
spec:
  type: LoadBalancer
  loadBalancerClass: sluice-lb.io/sluice
  ipFamilyPolicy: %s
  selector: {app: %s}
  ports:
  - {name: http, protocol: TCP, port: 8080, targetPort: 80}
  - {name: datagrams, protocol: UDP, port: 8080, targetPort: 80}
`, svc.name, strings.Join(networks, ", "), svc.families, svc.app)})
	}
	return all
}()

// toggleManifest removes a Service or a NAD, or brings it back.
func (s *steps) toggleManifest() {
	choice := []stepManifest{}
	for _, nw := range []*stepNetwork{plainNetwork, secondNetwork, goingNetwork} {
		name, text := nw.manifest()
		choice = append(choice, stepManifest{name, text})
	}
	choice = append(choice, stepManifests[1:]...) // not the facts: without candidates, every VIP is an issue
	m := choice[s.draw.IntN(len(choice))]
	// Mostly, what is gone comes back first, so that there is something to balance.
	gone := slices.IndexFunc(choice, func(m stepManifest) bool { return !s.applied[m.name] })
	if back := !s.chance(4); back && gone >= 0 {
		m = choice[gone]
	}
	s.say("%s, there: %v", m.name, s.applied[m.name])
	if s.applied[m.name] {
		s.remove(m.name)
	} else {
		s.apply(m.name, m.text)
	}
}

func (s *steps) apply(name, text string) {
	s.Helper()
	_, err := s.c.Apply(name, []byte(text))
	s.must(err)
	s.applied[name] = true
}

func (s *steps) remove(name string) {
	s.must(s.c.Remove(name))
	s.applied[name] = false
}

// toggleMaster removes eth3, as a driver that is reloaded does, or brings it back with another number.
func (s *steps) toggleMaster() {
	if s.masters["eth3"] == 0 {
		s.addMaster("eth3")
		return
	}
	s.must(s.n.Command(s.Context(), "ip", "link", "del", "eth3").Run())
	s.masters["eth3"] = 0
	for _, p := range s.pods {
		for _, i := range p.ifaces {
			i.lost = i.lost || i.network.master == "eth3"
		}
	}
}

func (s *steps) addMaster(name string) {
	s.Helper()
	s.must(s.n.Command(s.Context(), "ip", "link", "add", name, "up", "type", "veth", "peer", name+"p").Run())
	s.must(s.n.Command(s.Context(), "ip", "link", "set", name+"p", "up").Run())
	s.masters[name] = s.index(name)
}

func (s *steps) index(name string) int {
	s.Helper()
	out, err := s.n.Command(s.Context(), "cat", "/sys/class/net/"+name+"/ifindex").Output()
	s.must(err)
	index, err := strconv.Atoi(strings.TrimSpace(string(out)))
	s.must(err)
	return index
}

func (s *steps) gc() { s.collect(false) }

func (s *steps) gcWithoutCache() { s.collect(true) }

// collect runs GC of a network with a random list of attachments that it may keep. Pods that lose one are no endpoints any
// more: a runtime's list lacks only what it has ended.
func (s *steps) collect(cacheLost bool) {
	networks := []*stepNetwork{plainNetwork, secondNetwork, goingNetwork}
	network := networks[s.draw.IntN(len(networks))]
	valid := []cnitypes.GCAttachment{}
	for _, p := range s.pods {
		for i, iface := range p.ifaces {
			if iface.network != network {
				continue
			}
			if !s.chance(4) {
				valid = append(valid, cnitypes.GCAttachment{ContainerID: p.ContainerID, IfName: ifname(i)})
				continue
			}
			s.say("%s %s is not valid", p, ifname(i))
			p.unpublish(s)
			if iface.held == held { // of the others there may be no trace that GC could follow
				iface.held = absent
			}
		}
	}
	s.must(s.n.GC(s.Context(), "default/"+network.name, valid, cacheLost))
}

func ifname(i int) string { return fmt.Sprintf("net%d", i+1) }

// sendTraffic sends a few requests to some VIP in the background, so that the datapath remembers flows. Nobody may be
// there to answer.
func (s *steps) sendTraffic() {
	how := []string{"load", "udp"}[s.draw.IntN(2)]
	from, onlyPlain := runner(s.c.Client), true
	switch p := s.pick(); s.draw.IntN(3) {
	case 0:
		from = s.n
	case 1:
		if p != nil && p.netns {
			from, onlyPlain = p, false
		}
	}
	number := s.draw.Int()
	if !s.agent {
		return
	}
	state, err := s.state(s.Context())
	s.must(err)
	var targets []string
	for _, f := range state.Frontends {
		if !onlyPlain || f.Network == "default/"+plainNetwork.name {
			targets = append(targets, f.Addr)
		}
	}
	if len(targets) == 0 {
		return
	}
	slices.Sort(targets)
	target := targets[number%len(targets)]
	s.say("%s to %s", how, target)
	cmd := from.Command(context.WithoutCancel(s.Context()), "traffic", how, "-n", "8", "-c", "8", "-timeout", "1s", target)
	started := make(chan error, 1)
	s.traffic.Go(func() { _, _ = cmd.OutputAfter(started) })
	s.must(<-started)
}
