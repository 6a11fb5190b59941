// SPDX-License-Identifier: Apache-2.0

// Package cnitest plays the container runtime for tests: it makes network namespaces and runs real plugin chains in
// them through libcni. It must not be imported by anything but tests, and those must run under testkit.Isolate.
package cnitest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/testutils"
	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/internal/testkit"
)

// packages are the plugins of the chains that tests run. The upstream ones are built from their module.
var packages = []string{
	"github.com/containernetworking/plugins/plugins/main/macvlan",
	"github.com/containernetworking/plugins/plugins/ipam/host-local",
	"github.com/sluice-lb/sluice/plugins/meta/sluice",
}

// build builds the plugins once in a test binary. The directory goes with the /run of testkit.Isolate.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("/run", "plugins-")
	if err != nil {
		return "", err
	}
	return dir, testkit.Build(dir, packages...)
})

// Master makes an interface that can be the master of a network, and removes it with the test.
func Master(t testing.TB, name string) netlink.Link {
	t.Helper()
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: name + "-peer"}
	veth.Name = name
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatalf("add master %s: %v", name, err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	peer, err := netlink.LinkByName(veth.PeerName) //nolint:forbidigo // one link of our own, not a dump
	if err == nil {
		err = errors.Join(netlink.LinkSetUp(veth), netlink.LinkSetUp(peer))
	}
	if err != nil {
		t.Fatalf("set master %s up: %v", name, err)
	}
	return veth
}

// Pod is a network namespace with a name, as a runtime makes it for a pod.
type Pod struct {
	Name        string // in namespace "default"
	ContainerID string
	IfName      string
	NS          ns.NetNS

	bin   string
	cache string
	cni   *libcni.CNIConfig
}

// NewPod makes a pod without interfaces. Its namespace goes with the test, unless the test removes it before.
func NewPod(t testing.TB, name string) *Pod {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	netns, err := testutils.NewNS()
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	p := &Pod{Name: name, ContainerID: "c-" + name, IfName: "net1", NS: netns, bin: bin, cache: t.TempDir()}
	p.Path()
	t.Cleanup(func() {
		_ = netns.Close()
		_ = testutils.UnmountNS(netns)
	})
	return p
}

// Path makes the runtime look for plugins in these directories too.
func (p *Pod) Path(dirs ...string) {
	p.cni = libcni.NewCNIConfigWithCacheDir(append([]string{p.bin}, dirs...), p.cache, nil)
}

// Remove removes the pod's namespace, as a runtime does that skips DEL. Nothing can be run in the pod after it.
func (p *Pod) Remove(t testing.TB) {
	t.Helper()
	// An open namespace keeps its name busy.
	if err := errors.Join(p.NS.Close(), testutils.UnmountNS(p.NS)); err != nil {
		t.Fatal(err)
	}
}

// Do runs a function in the pod's network namespace.
func (p *Pod) Do(t testing.TB, fn func() error) {
	t.Helper()
	if err := p.NS.Do(func(ns.NetNS) error { return fn() }); err != nil {
		t.Fatal(err)
	}
}

func (p *Pod) runtime() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: p.ContainerID, NetNS: p.NS.Path(), IfName: p.IfName,
		Args: [][2]string{
			{"IgnoreUnknown", "true"},
			{"K8S_POD_NAMESPACE", "default"},
			{"K8S_POD_NAME", p.Name},
			{"K8S_POD_UID", "uid-" + p.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", p.ContainerID},
		},
	}
}

// Add runs ADD of a chain, in JSON.
func (p *Pod) Add(ctx context.Context, chain string) (types.Result, error) {
	list, err := libcni.ConfListFromBytes([]byte(chain))
	if err != nil {
		return nil, err
	}
	return p.cni.AddNetworkList(ctx, list, p.runtime())
}

// Check runs CHECK of a chain that was added.
func (p *Pod) Check(ctx context.Context, chain string) error {
	list, err := libcni.ConfListFromBytes([]byte(chain))
	if err != nil {
		return err
	}
	return p.cni.CheckNetworkList(ctx, list, p.runtime())
}

// Del runs DEL of a chain, whether it was added or not.
func (p *Pod) Del(ctx context.Context, chain string) error {
	list, err := libcni.ConfListFromBytes([]byte(chain))
	if err != nil {
		return err
	}
	return p.cni.DelNetworkList(ctx, list, p.runtime())
}

// GC runs GC of a chain, as a runtime that knows of no attachment but this pod's. Without arguments the plugins are
// told no list.
func (p *Pod) GC(ctx context.Context, chain string, args *libcni.GCArgs) error {
	list, err := libcni.ConfListFromBytes([]byte(chain))
	if err != nil {
		return err
	}
	return p.cni.GCNetworkList(ctx, list, args)
}

// Status runs STATUS of a chain.
func (p *Pod) Status(ctx context.Context, chain string) error {
	list, err := libcni.ConfListFromBytes([]byte(chain))
	if err != nil {
		return err
	}
	return p.cni.GetStatusNetworkList(ctx, list)
}

// Exec runs the sluice plugin by itself, the way that a runtime does or should not. The variables are set last, so they
// can spoil what the runtime would set; an empty value counts as unset. It gives standard output, and the CNI error if
// the exit status is not 0.
func (p *Pod) Exec(ctx context.Context, command, stdin string, env map[string]string) (string, error) {
	vars := map[string]string{
		"CNI_COMMAND": command, "CNI_CONTAINERID": p.ContainerID, "CNI_NETNS": p.NS.Path(), "CNI_IFNAME": p.IfName,
		"CNI_PATH": p.bin, "CNI_ARGS": "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + p.Name,
	}
	for name, value := range env {
		vars[name] = value
	}
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "sluice"))
	for name, value := range vars {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader([]byte(stdin)), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return stdout.String(), err
	}
	var refusal types.Error
	if err := json.Unmarshal(stdout.Bytes(), &refusal); err != nil || refusal.Code == 0 {
		return "", fmt.Errorf("%w, without a CNI error: stdout %q, stderr %q", exit, &stdout, &stderr)
	}
	return "", &refusal
}
