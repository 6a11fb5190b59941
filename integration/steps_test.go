// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

const (
	stepsEnv    = "SLUICE_STEPS"      // how many steps
	seedEnv     = "SLUICE_STEPS_SEED" // of the run to repeat
	checkPeriod = 100                 // steps between two looks at everything
	maxPods     = 14
	keptLog     = 150 // steps that a failure tells
)

// steps is a node on which things happen at random, and what is known of it. Draws depend on the seed and on former draws
// alone, never on what a step led to: so a seed gives the same steps again, though not the same timing.
type steps struct {
	*testing.T

	c      *cluster.Cluster
	n      *lab.Node
	draw   *rand.Rand
	number int
	log    []string // of the last steps
	wrong  []string // what failed

	pods    []*stepPod
	made    int             // pods ever
	applied map[string]bool // manifests that are there now
	masters map[string]int  // ifindex by name; 0 while it is gone
	agent   bool            // runs
	addTime time.Duration   // of the last ADD of one interface
	traffic sync.WaitGroup

	kinds    map[string]kindTotal
	attached int // ADDs that succeeded
	killed   int // plugins that did not live to their end
	halves   int // files that they had not finished writing
	flows    int // that the datapath remembered, at all looks
}

// kindTotal is how often a kind of step was drawn, and how long all of them took.
type kindTotal struct {
	count int
	took  time.Duration
}

// stepKinds are the steps, and how often each is drawn.
var stepKinds = []struct {
	name   string
	weight int
	do     func(*steps)
}{
	{"add", 18, (*steps).add},
	{"add, killed", 6, (*steps).addKilled},
	{"add, killed while it spools", 4, (*steps).addKilledWhileSpooling},
	{"add, the agent dies", 1, (*steps).addWhileAgentDies},
	{"add three at once", 2, (*steps).addAtOnce},
	{"del", 14, (*steps).del},
	{"del twice", 4, (*steps).delTwice},
	{"del, killed", 5, (*steps).delKilled},
	{"del, the agent dies", 1, (*steps).delWhileAgentDies},
	{"namespace vanishes", 7, (*steps).vanish},
	{"gc", 3, (*steps).gc},
	{"gc without cache", 3, (*steps).gcWithoutCache},
	{"check", 8, (*steps).check},
	{"manifest goes or comes", 8, (*steps).toggleManifest},
	{"readiness", 6, (*steps).toggleReady},
	{"traffic", 8, (*steps).sendTraffic},
	{"agent killed", 1, (*steps).killAgent},
	{"agent stopped", 1, (*steps).stopAgent},
	{"agent started", 12, (*steps).startAgent},
	{"master goes or comes", 2, (*steps).toggleMaster},
}

// TestRandomStepsLeaveNothingBehind lets pods come and go on a node in every crooked way, while plugins and agent are
// killed. Now and then, and at the end, all that Sluice keeps anywhere is compared with what must be there.
//
//	SLUICE_STEPS=2000 SLUICE_STEPS_SEED=7 go test ./integration -run RandomSteps -v
func TestRandomStepsLeaveNothingBehind(t *testing.T) {
	count, seed := number(t, stepsEnv, 100), number(t, seedEnv, time.Now().UnixNano())
	t.Logf("%s=%d %s=%d", stepsEnv, count, seedEnv, seed)
	s := newSteps(t, seed)
	total := 0
	for _, kind := range stepKinds {
		total += kind.weight
	}
	began := time.Now()
	for s.number = 1; s.number <= count; s.number++ {
		at := s.draw.IntN(total)
		for _, kind := range stepKinds {
			if at -= kind.weight; at < 0 {
				s.step(kind.name, kind.do)
				break
			}
		}
		if s.number%checkPeriod == 0 {
			s.step("look at everything", (*steps).lookAtEverything)
		}
	}
	s.step("the end", (*steps).end)
	took := time.Since(began)
	t.Logf("%d steps in %v, %.0f a second: %d pods, %d attached; %d plugins killed, of which %d while writing; %d flows",
		count, took.Round(time.Second), float64(count)/took.Seconds(), s.made, s.attached, s.killed, s.halves, s.flows)
	if count >= 1000 && (s.attached == 0 || s.killed == 0 || s.flows == 0) {
		t.Error("something never happened, so the test proves nothing of it")
	}
	for _, name := range slices.Sorted(maps.Keys(s.kinds)) {
		k := s.kinds[name]
		t.Logf("%4d  %-30s %v each", k.count, name, (k.took / time.Duration(k.count)).Round(100*time.Microsecond))
	}
}

// number reads an environment variable.
func number(t *testing.T, name string, unset int64) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return int(unset)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a positive number", name, text)
	}
	return n
}

func newSteps(t *testing.T, seed int) *steps {
	t.Helper()
	s := &steps{
		T: t, draw: rand.New(rand.NewPCG(uint64(seed), 0)), agent: true, addTime: 20 * time.Millisecond,
		applied: map[string]bool{}, masters: map[string]int{}, kinds: map[string]kindTotal{},
	}
	t.Cleanup(func() { // behind thousands of lines of logs
		if t.Failed() {
			t.Logf("%s=%d, step %d: %s", seedEnv, seed, s.number, strings.Join(s.wrong, "\n"))
		}
	})
	c := mustBareCluster(t, cluster.Options{Options: lab.Options{Nodes: 2}, Attach: "tcx"})
	s.c, s.n = c, c.Node(1)
	for _, name := range []string{"eth2", "eth3"} {
		s.addMaster(name)
	}
	s.masters["eth1"] = s.index("eth1")
	for _, nw := range stepNetworks {
		s.apply(nw.manifest())
	}
	for _, m := range stepManifests {
		s.apply(m.name, m.text)
	}
	// A backend elsewhere: node 2 owns nothing, and needs no agent for it.
	if err := c.Agent(c.Node(2)).Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustPod(t, c.Node(2), "elsewhere", "a")
	return s
}

// step does one step, and fails the test with the last ones if it went wrong.
func (s *steps) step(name string, do func(*steps)) {
	s.say("%s", name)
	began := time.Now()
	do(s)
	k := s.kinds[name]
	s.kinds[name] = kindTotal{k.count + 1, k.took + time.Since(began)}
	if s.Failed() {
		s.Fatalf("the steps up to here:\n%s", strings.Join(s.log[max(0, len(s.log)-keptLog):], "\n"))
	}
}

// say notes what happens, for the case that it goes wrong.
func (s *steps) say(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%4d %s  ", s.number, time.Now().UTC().Format("15:04:05.000"))+fmt.Sprintf(format, args...))
}

// must fails the test at once.
func (s *steps) must(err error) {
	s.Helper()
	if err != nil {
		s.Errorf("%v", err)
	}
}

// Errorf notes what went wrong, to tell it again at the end.
func (s *steps) Errorf(format string, args ...any) {
	s.Helper()
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
	s.T.Errorf(format, args...)
}

// chance is true once in n times.
func (s *steps) chance(n int) bool { return s.draw.IntN(n) == 0 }

// pick gives one of the pods, or nil.
func (s *steps) pick() *stepPod {
	if len(s.pods) == 0 {
		return nil
	}
	return s.pods[s.draw.IntN(len(s.pods))]
}

func (s *steps) killAgent() {
	if s.agent {
		s.c.Agent(s.n).Kill()
	}
	s.agent = false
}

func (s *steps) stopAgent() {
	if s.agent {
		s.must(s.c.Agent(s.n).Stop(s.Context()))
	}
	s.agent = false
}

func (s *steps) startAgent() {
	if !s.agent {
		s.must(s.c.StartAgent(s.Context(), s.n))
	}
	s.agent = true
}

// killAgentWhile kills the agent while something else happens.
func (s *steps) killAgentWhile(do func()) {
	after := s.moment()
	var dead sync.WaitGroup
	if s.agent {
		dead.Go(func() {
			after(s.Context())
			s.c.Agent(s.n).Kill()
		})
	}
	do()
	dead.Wait()
	s.agent = false
}
