// SPDX-License-Identifier: Apache-2.0

// Package kube owns the tests that run the real binaries against a real API server, with the lab's nodes and pods. It must not
// import what it tests.
package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/kubeapi"
	"github.com/sluice-lb/sluice/integration/lab"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// programs is the directory with the binaries that all tests of this run use.
var programs string

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run()) // every test skips
	}
	os.Exit(cluster.WithPrograms(func(dir string) int {
		programs = dir
		return m.Run()
	}))
}

// limit is for anything that should take milliseconds, on a machine that is busy with other things.
const limit = 60 * time.Second

// shipped is what users apply. Its ServiceAccounts are who the programs run as in every test.
const shipped = "../../deploy/sluice.yaml"

// exampleNAD is the network of most tests.
const exampleNAD = "../../netconf-examples/nad-macvlan1-dual-stack.yaml"

// world is Sluice in a lab, with an API server.
type world struct {
	*cluster.Cluster

	api *kubeapi.Plane
}

// refused is what the API server says to those who may not.
const refused = "is forbidden"

// mustWorld runs Sluice on some nodes.
func mustWorld(t *testing.T, nodes int, options cluster.Options) *world {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.BPF)
	w := &world{api: &kubeapi.Plane{Controller: "sluice-system/sluice-controller", Agent: "sluice-system/sluice-agent"}}
	options.Nodes, options.API = nodes, w.api
	options.Path = append([]string{programs}, options.Path...)
	options.Manifests = append([]string{shipped}, options.Manifests...)
	c, err := cluster.New(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	w.Cluster = c
	early := strings.Count(c.Logs(), refused) // the API server needs a moment to learn of roles that are new
	t.Cleanup(func() {
		logs := c.Logs()
		if strings.Count(logs, refused) > early {
			t.Error("the shipped roles lack something")
			t.Log(logs)
		}
		if strings.Contains(logs, "DATA RACE") {
			t.Error("a daemon has a data race")
		}
		if t.Failed() {
			t.Log(logs)
			t.Log(w.api.Logs())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) mustApply(t *testing.T, name, manifest string) {
	t.Helper()
	if _, err := w.Apply(name, []byte(manifest)); err != nil {
		t.Fatal(err)
	}
}

// mustPod adds a ready pod that serves on port 80.
func (w *world) mustPod(t *testing.T, n *lab.Node, name, app, networks string) *lab.Pod {
	t.Helper()
	p, err := n.AddPod(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"app": app},
		Annotations: map[string]string{"k8s.v1.cni.cncf.io/networks": networks},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Start("traffic", "serve", "-name", name); err != nil {
		t.Fatal(err)
	}
	mustUntil(t, "traffic listens in "+name, func(ctx context.Context) error {
		return p.Command(ctx, "traffic", "load", "-n", "1", "127.0.0.1:80").Run()
	})
	if err := p.SetReady(true); err != nil {
		t.Fatal(err)
	}
	return p
}

func mustUntil(t *testing.T, what string, done func(context.Context) error) {
	t.Helper()
	if err := lab.Until(t.Context(), limit, what, done); err != nil {
		t.Fatal(err)
	}
}

// service reads a Service as the API server has it.
func (w *world) service(ctx context.Context, name string) (*corev1.Service, error) {
	return w.api.Client().CoreV1().Services("default").Get(ctx, name, metav1.GetOptions{})
}

// mustVIPs waits until a Service's status has so many addresses, and gives them in its order.
func (w *world) mustVIPs(t *testing.T, name string, count int) []string {
	t.Helper()
	var vips []string
	mustUntil(t, fmt.Sprintf("Service %s has %d addresses", name, count), func(ctx context.Context) error {
		svc, err := w.service(ctx, name)
		if err != nil {
			return err
		}
		vips = nil
		for _, entry := range svc.Status.LoadBalancer.Ingress {
			vips = append(vips, entry.IP)
		}
		if len(vips) != count {
			return fmt.Errorf("it has %v; conditions: %+v", vips, svc.Status.Conditions)
		}
		return nil
	})
	return vips
}

// events gives a Service's events as "Type Reason: Message".
func (w *world) events(ctx context.Context, object string) ([]string, error) {
	kind, name, _ := strings.Cut(object, " ")
	list, err := w.api.Client().CoreV1().Events("default").List(ctx, metav1.ListOptions{
		FieldSelector: "involvedObject.kind=" + kind + ",involvedObject.name=" + name,
	})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range list.Items {
		out = append(out, e.Type+" "+e.Reason+": "+e.Message)
	}
	return out, nil
}

// mustEvent waits for an event that begins with a text.
func (w *world) mustEvent(t *testing.T, object, prefix string) {
	t.Helper()
	mustUntil(t, fmt.Sprintf("%s has event %q", object, prefix), func(ctx context.Context) error {
		events, err := w.events(ctx, object)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(events, func(e string) bool { return strings.HasPrefix(e, prefix) }) {
			return fmt.Errorf("it has %q", events)
		}
		return nil
	})
}

// report is what traffic's clients print.
type report struct {
	Pods    map[string]int `json:"pods"`
	Clients map[string]int `json:"clients"`
	Errors  []string       `json:"errors"`
}

// ask sends requests from a host.
func ask(ctx context.Context, from *lab.Host, target string, requests int) (report, error) {
	out, runErr := from.Command(ctx, "traffic", "load", "-n", fmt.Sprint(requests), "-timeout", "2s", target).Output()
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		return report{}, errors.Join(runErr, err)
	}
	if len(r.Errors) > 0 {
		return r, errors.New(strings.Join(r.Errors, "; "))
	}
	return r, nil
}

// mustAnswer waits until exactly these pods answer at a target.
func (w *world) mustAnswer(t *testing.T, target string, pods ...string) {
	t.Helper()
	slices.Sort(pods)
	mustUntil(t, fmt.Sprintf("%v answer at %s", pods, target), func(ctx context.Context) error {
		r, err := ask(ctx, w.Client, target, 30)
		if err != nil {
			return err
		}
		var got []string
		for name := range r.Pods {
			got = append(got, name)
		}
		slices.Sort(got)
		if !slices.Equal(got, pods) {
			return fmt.Errorf("%v answer", got)
		}
		return nil
	})
}

// heldConnections is how many connections mustHold keeps busy.
const heldConnections = 20

// mustHold keeps connections busy from now on. The function ends them, and checks that each lived from beginning to end.
func (w *world) mustHold(t *testing.T, target string) (release func(*testing.T)) {
	t.Helper()
	p, err := w.Client.StartAs("hold", "traffic", "hold", "-c", fmt.Sprint(heldConnections), target)
	if err != nil {
		t.Fatal(err)
	}
	const held = "held\n"
	mustUntil(t, "connections are held", func(context.Context) error {
		if !strings.Contains(p.Output(), held) {
			return errors.New(p.Output())
		}
		return nil
	})
	return func(t *testing.T) {
		t.Helper()
		stopping, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		if err := p.Stop(stopping); err != nil {
			t.Errorf("%v: %s", err, p.Output())
		}
		var r report
		if err := json.Unmarshal([]byte(strings.Replace(p.Output(), held, "", 1)), &r); err != nil || len(r.Errors) > 0 || len(r.Pods) == 0 {
			t.Errorf("held connections: %v: %s", err, p.Output())
		}
	}
}

// mustDuration reads an environment variable.
func mustDuration(t *testing.T, name string, unset time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return unset
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return d
}

// mustDocument gives one of a file's YAML documents.
func mustDocument(t *testing.T, file string, number int) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n---\n")[number]
}
