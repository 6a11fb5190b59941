// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-lb/sluice/internal/testkit"
)

// nad is a chain of upstream plugins only: the lab must work without the programs under test.
var nad = NAD{
	Name:   "plain",
	Ranges: []Range{{Subnet: "192.168.20.0/24", Start: "192.168.20.20", End: "192.168.20.200", Gateway: "192.168.20.1"}},
}.YAML()

// orphanEnv turns the test binary into a process that builds a lab, one of builders, and waits to be killed.
const orphanEnv = "SLUICE_LAB_ORPHAN"

var builders = map[string]func(context.Context) (*Lab, error){
	"lab":     func(ctx context.Context) (*Lab, error) { return New(ctx, Options{Nodes: 1}) },
	"control": func(ctx context.Context) (*Lab, error) { return NewControl(ctx, nil) },
}

func TestMain(m *testing.M) {
	if build := builders[os.Getenv(orphanEnv)]; build != nil {
		l, err := build(context.Background())
		if err == nil {
			var p *Process
			if p, err = l.Control.Start("sleep", "1000"); err == nil {
				fmt.Fprintln(os.Stdout, p.PID(), l.Dir())
				select {}
			}
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestPodsOfAllNodesReachEachOtherAndTheClient(t *testing.T) {
	l := mustLab(t, Options{Path: []string{mustBuild(t)}})
	if _, err := l.Apply("nad.yaml", []byte(nad)); err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for i, node := range l.Nodes() {
		p := mustPod(t, node, fmt.Sprintf("web%d", i+1))
		if other := seen[p.Addr.String()]; other != "" {
			t.Errorf("%s and %s both got %s", other, p, p.Addr)
		}
		seen[p.Addr.String()] = p.String()
		if err := p.Check(t.Context()); err != nil {
			t.Error(err)
		}
		mustServe(t, p)
	}
	for addr, pod := range seen {
		report, err := l.Client.Command(t.Context(), "traffic", "load", "-n", "2", addr+":80").Output()
		if err != nil || !strings.Contains(string(report), `"clients":{"192.168.20.5":2}`) {
			t.Errorf("client to %s: %s, %v", pod, report, err)
		}
	}
}

func TestPodManifestIsWhatMultusWrites(t *testing.T) {
	l := mustLab(t, Options{Nodes: 1, Path: []string{mustBuild(t)}})
	if _, err := l.Apply("nad.yaml", []byte(nad)); err != nil {
		t.Fatal(err)
	}
	p := mustPod(t, l.Node(1), "web1")
	file := filepath.Join(l.ManifestDir(), "pod-default-web1.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"nodeName: node1", p.Addr.String(), p.MAC, `"name":"default/plain","interface":"net1"`, `"default":true`,
		"status: \"False\"", "uid: ",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("manifest lacks %q:\n%s", want, text)
		}
	}
	if err := p.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("manifest of a deleted pod: %v", err)
	}
	if err := p.Delete(t.Context()); err != nil {
		t.Errorf("deleting again: %v", err)
	}
	left, err := os.ReadDir(filepath.Join(l.ipamDir(), "plain"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		if f.Name() == p.Addr.String() {
			t.Errorf("address %s is still allocated", p.Addr)
		}
	}
}

func TestTwoLabsLiveSideBySide(t *testing.T) {
	a, b := mustLab(t, Options{Nodes: 1}), mustLab(t, Options{Nodes: 1})
	for _, l := range []*Lab{a, b} {
		if err := l.Client.Command(t.Context(), "bash", "-c", "exec 3<>/dev/tcp/192.168.20.2/7").Run(); err == nil {
			t.Error("a port that nobody listens on answered")
		} else if !strings.Contains(err.Error(), "refused") {
			t.Errorf("the node is not reachable: %v", err)
		}
	}
}

func TestKilledBuilderLeavesNothingBehind(t *testing.T) {
	testkit.Require(t, testkit.Root)
	for name := range builders {
		t.Run(name, func(t *testing.T) { wantNothingOfKilled(t, name) })
	}
}

func wantNothingOfKilled(t *testing.T, builder string) {
	t.Helper()
	orphan := exec.Command(os.Args[0])
	orphan.Env = append(os.Environ(), orphanEnv+"="+builder)
	stdout, err := orphan.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := orphan.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
	process, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatalf("the lab did not start: %s", line)
	}
	if err := orphan.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = orphan.Wait()
	err = Until(t.Context(), 10*time.Second, "the lab is gone", func(context.Context) error {
		if state := processState(process); state != "" && state != "Z" {
			return fmt.Errorf("process %d on Control is in state %s", process, state)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("directory %s is still there", dir)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestKilledProcessIsReallyGone(t *testing.T) {
	l := mustLab(t, Options{Nodes: 1})
	p, err := l.Node(1).Start("sh", "-c", "echo up; exec sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if err := syscall.Kill(p.PID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("signal to the killed process: %v", err)
	}
}

// processState is the letter of /proc/PID/stat, or nothing if there is no such process.
func processState(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return rest[:1]
}

func mustLab(t *testing.T, o Options) *Lab {
	t.Helper()
	testkit.Require(t, testkit.Root)
	l, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func mustPod(t *testing.T, n *Node, name string) *Pod {
	t.Helper()
	p, err := n.AddPod(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: name, Annotations: map[string]string{"k8s.v1.cni.cncf.io/networks": "plain"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// mustServe starts a server in the pod and waits until it listens.
func mustServe(t *testing.T, p *Pod) {
	t.Helper()
	if _, err := p.Start("traffic", "serve", "-name", p.Name); err != nil {
		t.Fatal(err)
	}
	err := Until(t.Context(), 10*time.Second, "the pod listens", func(ctx context.Context) error {
		return p.Command(ctx, "traffic", "load", "-n", "1", "127.0.0.1:80").Run()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func mustBuild(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	err := testkit.Build(dir,
		"github.com/containernetworking/plugins/plugins/main/macvlan",
		"github.com/containernetworking/plugins/plugins/ipam/host-local",
		"github.com/sluice-lb/sluice/integration/traffic")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
