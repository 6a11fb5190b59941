// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/integration/lab"
)

// stepPod is a pod, and what is known of it.
type stepPod struct {
	*lab.Pod

	number    int
	app       string
	serves    bool // runs a server
	ready     bool
	netns     bool // exists
	published bool
	ifaces    []*stepIface
}

// stepIface is one of a pod's interfaces on a network of ours.
type stepIface struct {
	network *stepNetwork
	held    holding
	lost    bool // its master is gone, and the interface with it
}

// holding tells whether Sluice must have an attachment. Whether a plugin that was killed has come so far is unsure.
type holding int

const (
	absent holding = iota
	held
	unsure
)

func (p *stepPod) set(h holding) {
	for _, i := range p.ifaces {
		i.held = h
	}
}

func (p *stepPod) is(h holding) bool {
	return !slices.ContainsFunc(p.ifaces, func(i *stepIface) bool { return i.held != h })
}

func (p *stepPod) on(nw *stepNetwork) bool {
	return slices.ContainsFunc(p.ifaces, func(i *stepIface) bool { return i.network == nw })
}

func (p *stepPod) unpublish(s *steps) {
	s.must(p.Unpublish())
	p.published = false
}

// newPod makes a sandbox. The oldest pod gives way if there are too many.
func (s *steps) newPod() *stepPod {
	for len(s.pods) >= maxPods {
		s.end1(s.pods[0])
	}
	s.made++
	networks := podNetworks[s.draw.IntN(len(podNetworks))]
	p := &stepPod{
		number: s.made, app: []string{"a", "b", "c"}[s.draw.IntN(3)], serves: !s.chance(4), ready: !s.chance(4), netns: true,
	}
	var names []string
	for _, nw := range networks {
		p.ifaces = append(p.ifaces, &stepIface{network: nw})
		names = append(names, nw.name)
	}
	var err error
	p.Pod, err = s.n.NewPod(s.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: fmt.Sprintf("p%d", s.made), Labels: map[string]string{"app": p.app},
		Annotations: map[string]string{"k8s.v1.cni.cncf.io/networks": strings.Join(names, ",")},
	}})
	if err != nil {
		s.Fatal(err)
	}
	s.say("%s on %v, app %s", p, names, p.app)
	s.pods = append(s.pods, p)
	return p
}

// mustFail tells why the pod's ADD cannot succeed, or "".
func (s *steps) mustFail(p *stepPod) string {
	switch {
	case p.on(brokenNetwork):
		return "a plugin after sluice fails"
	case p.on(goingNetwork) && s.masters["eth3"] == 0:
		return "the master is gone"
	case p.on(goingNetwork) && !s.agent:
		return "the agent is away"
	}
	return ""
}

// may tells what happened during an ADD that may have failed it.
type may struct{ killed, agentDied bool }

// added notes what an ADD led to.
func (s *steps) added(p *stepPod, err error, may may) {
	s.Helper()
	why := s.mustFail(p)
	if err != nil {
		s.failed(p, err)
		expected := why != "" || may.killed || may.agentDied && p.on(goingNetwork) ||
			p.on(smallNetwork) && strings.Contains(err.Error(), "no IP addresses available")
		if !expected {
			s.Errorf("ADD of %s: %v", p, err)
		}
		return
	}
	if why != "" {
		s.Errorf("ADD of %s succeeded although %s", p, why)
	}
	s.attached += len(p.ifaces)
	p.set(held)
	p.published = true
	s.must(p.SetReady(p.ready))
	if p.serves {
		_, err := p.Start("traffic", "serve", "-name", p.Name)
		s.must(err)
	}
	if s.agent && !may.agentDied {
		s.mustBeServed(p)
	}
}

// failed notes that nobody knows what there is of a pod's attachments.
func (s *steps) failed(p *stepPod, err error) {
	p.set(unsure)
	s.say("%s: %v", p, strings.ReplaceAll(err.Error(), "\n", " "))
}

// mustBeServed checks that the agent has what it has answered for.
func (s *steps) mustBeServed(p *stepPod) {
	s.Helper()
	state, err := s.state(s.Context())
	s.must(err)
	for i := range p.ifaces {
		key := api.Key{ContainerID: p.ContainerID, IfName: ifname(i)}
		if !slices.ContainsFunc(state.Pods, func(have statePod) bool { return have.Attachment == key.String() }) {
			s.Errorf("ADD of %s succeeded, but the agent's State lacks %s", p, ifname(i))
		}
	}
}

func (s *steps) add() {
	p := s.newPod()
	began := time.Now()
	err := p.Attach(s.Context())
	if err == nil {
		s.addTime = time.Since(began) / time.Duration(len(p.ifaces))
	}
	s.added(p, err, may{})
}

func (s *steps) addAtOnce() {
	for len(s.pods) > maxPods-3 {
		s.end1(s.pods[0])
	}
	pods := []*stepPod{s.newPod(), s.newPod(), s.newPod()}
	errs := make([]error, len(pods))
	var all sync.WaitGroup
	for i, p := range pods {
		all.Go(func() { errs[i] = p.Attach(s.Context()) })
	}
	all.Wait()
	for i, p := range pods {
		s.added(p, errs[i], may{})
	}
}

func (s *steps) addKilled() {
	p, k := s.newPod(), s.killer(s.moment())
	err := p.Attach(lab.WithKill(s.Context(), "sluice", k.wait))
	s.added(p, err, may{killed: k.fired})
}

func (s *steps) addKilledWhileSpooling() {
	p, k := s.newPod(), s.killer(s.whenSpooling)
	err := p.Attach(lab.WithKill(s.Context(), "sluice", k.wait))
	s.added(p, err, may{killed: k.fired})
}

func (s *steps) addWhileAgentDies() {
	p := s.newPod()
	s.killAgentWhile(func() { s.added(p, p.Attach(s.Context()), may{agentDied: true}) })
}

// end1 ends a pod as a runtime should.
func (s *steps) end1(p *stepPod) {
	s.Helper()
	s.say("%s ends", p)
	s.pods = slices.DeleteFunc(s.pods, func(other *stepPod) bool { return other == p })
	p.unpublish(s)
	s.must(p.Detach(s.Context()))
	for _, name := range s.spool() {
		if strings.Contains(name, p.ContainerID) {
			s.Errorf("%s is spooled after DEL of %s", name, p)
		}
	}
	s.must(p.Vanish())
}

func (s *steps) del() {
	if p := s.pick(); p != nil {
		s.end1(p)
	}
}

func (s *steps) delTwice() {
	if p := s.pick(); p != nil {
		s.end1(p)
		s.must(p.Detach(s.Context()))
	}
}

func (s *steps) delKilled() {
	k := s.killer(s.moment())
	p := s.pick()
	if p == nil {
		return
	}
	s.say("%s", p)
	p.unpublish(s)
	err := p.Detach(lab.WithKill(s.Context(), "sluice", k.wait))
	if err == nil {
		p.set(absent)
		return
	}
	s.failed(p, err)
	if !k.fired {
		s.Errorf("DEL of %s: %v", p, err)
	}
}

func (s *steps) delWhileAgentDies() {
	p := s.pick()
	s.killAgentWhile(func() {
		if p != nil {
			s.end1(p)
		}
	})
}

func (s *steps) vanish() {
	if p := s.pick(); p != nil {
		s.say("%s", p)
		s.letVanish(p)
	}
}

func (s *steps) letVanish(p *stepPod) {
	s.Helper()
	s.must(p.Vanish())
	p.netns = false
	p.set(absent)
}

func (s *steps) check() {
	p := s.pick()
	if p == nil || !p.netns || !p.is(held) || slices.ContainsFunc(p.ifaces, func(i *stepIface) bool { return i.lost }) {
		return
	}
	err := p.Check(s.Context())
	if s.agent && err != nil {
		s.Errorf("CHECK of %s: %v", p, err)
	}
	if !s.agent && err == nil {
		s.Errorf("CHECK of %s succeeded without an agent", p)
	}
}

func (s *steps) toggleReady() {
	if p := s.pick(); p != nil && p.published {
		p.ready = !p.ready
		s.must(p.SetReady(p.ready))
	}
}

// killer waits for the moment at which a plugin shall die.
type killer struct {
	s     *steps
	until func(context.Context)
	fired bool // a plugin did not end before
}

func (s *steps) killer(until func(context.Context)) *killer { return &killer{s: s, until: until} }

func (k *killer) wait(ctx context.Context) {
	k.until(ctx)
	if ctx.Err() == nil {
		k.fired = true
		k.s.killed++
	}
}

// moment gives a wait that ends at some moment of a plugin's life, which is about half of an ADD on this machine now.
func (s *steps) moment() func(context.Context) {
	after := time.Duration(s.draw.Float64() * 0.6 * float64(s.addTime))
	return func(ctx context.Context) {
		timer := time.NewTimer(after)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// whenSpooling waits until a file comes into the spool directory under a name that it will not keep.
func (s *steps) whenSpooling(ctx context.Context) {
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer watcher.Close()
		err = watcher.Add(s.n.Root() + api.SpoolDir)
	}
	if err != nil {
		s.Errorf("%v", err)
		return
	}
	for {
		select {
		case event := <-watcher.Events:
			if event.Has(fsnotify.Create) && strings.HasPrefix(filepath.Base(event.Name), ".") {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// spool lists the files in the spool directory.
func (s *steps) spool() []string {
	s.Helper()
	entries, err := os.ReadDir(s.n.Root() + api.SpoolDir)
	s.must(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
