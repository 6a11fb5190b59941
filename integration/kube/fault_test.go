// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

// guard stands between a controller and the API server, and kills the controller at one of its writes.
type guard struct {
	proxy *httputil.ReverseProxy

	mu sync.Mutex
	// Guarded by mu.
	victim *lab.Process
	at     int  // the write, counted from 1
	after  bool // the API server has done it, though nobody tells
	seen   int  // writes
	log    []string
	killed bool
}

// mustGuard gives a guard and the kubeconfig of those that it watches.
func (w *world) mustGuard(t *testing.T) (g *guard, kubeconfig string) {
	t.Helper()
	config := w.api.Config()
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := w.Control.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g = &guard{proxy: &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1, // a watch's events go on at once
		ErrorHandler:  func(rw http.ResponseWriter, _ *http.Request, _ error) { rw.WriteHeader(http.StatusBadGateway) },
	}}
	server := &http.Server{Handler: g}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // until Close
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	kubeconfig = filepath.Join(t.TempDir(), "guarded.kubeconfig")
	text := fmt.Sprintf(`
apiVersion: v1
kind: Config
clusters: [{name: guarded, cluster: {server: "http://%s"}}]
contexts: [{name: guarded, context: {cluster: guarded}}]
current-context: guarded
`, listener.Addr())
	if err := os.WriteFile(kubeconfig, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return g, kubeconfig
}

// isStep tells whether a request writes what an allocation consists of. The election and events do not.
func isStep(r *http.Request) bool {
	return r.Method != http.MethodGet && !strings.Contains(r.URL.Path, "/events") && !strings.HasSuffix(r.URL.Path, "/sluice-controller")
}

// ServeHTTP is http.Handler's.
func (g *guard) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if !isStep(r) {
		g.proxy.ServeHTTP(rw, r)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock() // a controller writes one thing after the other
	if g.killed {
		rw.WriteHeader(http.StatusBadGateway)
		return
	}
	g.seen++
	g.log = append(g.log, r.Method+" "+r.URL.Path)
	hit := g.seen == g.at
	if !hit || g.after {
		g.proxy.ServeHTTP(rw, r)
	}
	if hit {
		g.killed = true
		g.victim.Kill()
	}
}

// arm has the guard kill a controller at a write, before the API server sees it or after.
func (g *guard) arm(victim *lab.Process, at int, after bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.victim, g.at, g.after, g.seen, g.log, g.killed = victim, at, after, 0, nil, false
}

func (g *guard) result() (writes []string, killed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log, g.killed
}

// walk lets controllers die at the writes of a change to the Service "walked", beside the Service "steady".
type walk struct {
	*world

	guard      *guard
	kubeconfig string
	count      int
}

// mustStart starts a controller, which leads at once: nobody waits here for the Lease of a dead one.
func (w *walk) mustStart(t *testing.T) *lab.Process {
	t.Helper()
	_, err := w.api.Kubectl(t.Context(), "patch", "lease", "sluice-controller", "--namespace=sluice-system", "--type=merge",
		"-p", `{"spec": {"holderIdentity": ""}}`)
	if err != nil {
		t.Fatal(err)
	}
	w.count++
	p, err := w.Control.StartAs(fmt.Sprint("walker", w.count), "sluiced", "controller", "--kubeconfig", w.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *walk) mustKubectl(t *testing.T, args ...string) {
	t.Helper()
	if _, err := w.api.Kubectl(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
}

// dies makes the change, in which the controller dies at a write, and has another one finish it. It tells whether there was
// such a write.
func (w *walk) dies(t *testing.T, at int, after bool, c change) bool {
	t.Helper()
	w.guard.arm(nil, 0, false)
	first := w.mustStart(t)
	w.mustKubectl(t, "delete", "service", "walked", "--ignore-not-found", "--wait=false")
	w.mustBeConsistent(t, 1)
	if c.before == 2 {
		w.mustApply(t, "walked.yaml", serviceNamed("walked"))
	}
	w.mustBeConsistent(t, c.before)
	w.guard.arm(first, at, after)
	w.mustKubectl(t, c.kubectl...)
	mustUntil(t, "the controller is dead or has done it", func(ctx context.Context) error {
		select {
		case <-first.Done():
			return nil
		default:
		}
		return c.done(ctx, w.world)
	})
	writes, killed := w.guard.result()
	if !killed {
		t.Logf("%s: %d writes: %v", c.name, len(writes), writes)
		first.Kill()
		return false
	}
	<-first.Done()
	w.guard.arm(nil, 0, false)
	heir := w.mustStart(t)
	mustUntil(t, fmt.Sprintf("%s is done after a death at write %d of %v (after it: %t)", c.name, at, writes, after),
		func(ctx context.Context) error { return c.done(ctx, w.world) })
	w.mustBeConsistent(t, c.after)
	heir.Kill()
	return true
}

// change is something that a user does to the Service "walked".
type change struct {
	name          string
	kubectl       []string
	before, after int // Services with a VIP
	done          func(ctx context.Context, w *world) error
}

// isGiven tells whether all is written that gives the Service "walked" a VIP with this beginning.
func isGiven(beginning string) func(context.Context, *world) error {
	return func(ctx context.Context, w *world) error {
		svc, err := w.service(ctx, "walked")
		if err != nil {
			return err
		}
		entries := svc.Status.LoadBalancer.Ingress
		if len(entries) != 1 || !strings.HasPrefix(entries[0].IP, beginning) {
			return fmt.Errorf("it shows %+v, want %s", entries, beginning)
		}
		_, err = w.consistent(ctx, 2)
		return err
	}
}

// isTaken tells whether nothing of ours is left of the Service "walked".
func isTaken(ctx context.Context, w *world) error { return w.nothingOf(ctx, "walked") }

// TestAControllerKilledAtAnyStepLosesNoVIP walks through the writes of a Service's life. Each time the controller dies there,
// before or after the API server has done it, and another takes over. A connection through another Service's VIP lives through
// all of it.
func TestAControllerKilledAtAnyStepLosesNoVIP(t *testing.T) {
	w := mustWorld(t, 1, cluster.Options{})
	w.mustApply(t, "nad.yaml", wideNAD)
	w.mustApply(t, "steady.yaml", serviceNamed("steady"))
	w.mustPod(t, w.Node(1), "web1", "web", "macvlan1")
	steady := w.mustVIPs(t, "steady", 1)[0]
	w.mustAnswer(t, steady+":8080", "web1")
	held := w.mustHold(t, steady+":8080")
	w.Controller().Kill()

	file := filepath.Join(t.TempDir(), "walked.yaml")
	if err := os.WriteFile(file, []byte(serviceNamed("walked")), 0o644); err != nil {
		t.Fatal(err)
	}
	annotate := []string{"annotate", "service", "walked", "--overwrite"}
	walk := walk{world: w}
	walk.guard, walk.kubeconfig = w.mustGuard(t)
	for _, c := range []change{
		{"create", []string{"create", "-f", file}, 1, 2, isGiven("192.168.20.1")},
		{"move", append(annotate, "sluice-lb.io/ips=192.168.20.200"), 2, 2, isGiven("192.168.20.200")},
		{"release", append(annotate, "sluice-lb.io/networks="), 2, 1, isTaken},
		{"delete", []string{"delete", "service", "walked", "--wait=false"}, 2, 1, isTaken},
	} {
		for _, after := range []bool{false, true} {
			deaths := 0
			for walk.dies(t, deaths+1, after, c) {
				deaths++
			}
			if deaths < 2 {
				t.Errorf("%s: the controller died at %d writes, want more", c.name, deaths)
			}
		}
	}
	if got := w.mustVIPs(t, "steady", 1)[0]; got != steady {
		t.Errorf("the VIP of a Service that nobody touched was %s and is %s", steady, got)
	}
	held(t)
}
