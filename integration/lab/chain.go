// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
)

// network is a NAD, ready to be run.
type network struct {
	name  string // namespace/name
	chain *libcni.NetworkConfigList
}

// parseNetwork reads a NAD's chain as Multus does: a NAD without a name in its configuration gets its own.
func parseNetwork(nad *nadv1.NetworkAttachmentDefinition) (network, error) {
	name := nad.Namespace + "/" + nad.Name
	var config map[string]any
	if err := json.Unmarshal([]byte(nad.Spec.Config), &config); err != nil {
		return network{}, fmt.Errorf("read spec.config of NAD %q: %w", name, err)
	}
	if config["name"] == nil {
		config["name"] = nad.Name
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return network{}, fmt.Errorf("read spec.config of NAD %q: %w", name, err)
	}
	chain, err := libcni.NetworkConfFromBytes(raw)
	if err != nil {
		return network{}, fmt.Errorf("read spec.config of NAD %q: %w", name, err)
	}
	return network{name: name, chain: chain}, nil
}

// kill says which plugin shall not live to its end.
type kill struct {
	plugin string
	when   func(context.Context)
}

type killKey struct{}

// WithKill gives a context under which a plugin of a chain is killed with SIGKILL: when is called as the plugin starts, and
// the plugin dies when it returns. Its context ends with the plugin, and it must return then.
func WithKill(ctx context.Context, plugin string, when func(context.Context)) context.Context {
	return context.WithValue(ctx, killKey{}, kill{plugin, when})
}

// hostExec runs CNI plugins on a host, with the runtime that the plugins' own module ships.
type hostExec struct {
	invoke.RawExec
	version.PluginDecoder

	host *Host
}

// ExecPlugin is invoke.Exec's.
func (e *hostExec) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	if k, ok := ctx.Value(killKey{}).(kill); ok && k.plugin == filepath.Base(path) {
		running, end := context.WithCancel(ctx) // whose end kills the plugin
		var killer sync.WaitGroup
		killer.Go(func() {
			defer end()
			k.when(running)
		})
		defer killer.Wait()
		defer end()
		ctx = running
	}
	var out []byte
	err := e.host.inside(e.host.netns(), func() (err error) {
		out, err = e.RawExec.ExecPlugin(ctx, path, stdin, env)
		return err
	})
	return out, err
}

// cni is the runtime's side of the chain on this node. Plugins write their log to w.
func (n *Node) cni(w io.Writer) *libcni.CNIConfig {
	return n.cniWithCache(w, filepath.Join(n.lab.dir, "cni-cache", n.Name))
}

func (n *Node) cniWithCache(w io.Writer, cache string) *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(n.path, cache, &hostExec{RawExec: invoke.RawExec{Stderr: w}, host: n.Host})
}

// runtimeConf is what Multus sends with every call.
func (p *Pod) runtimeConf(ifname string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: p.ContainerID,
		NetNS:       p.Netns,
		IfName:      ifname,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", p.object.Namespace},
			{"K8S_POD_NAME", p.object.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", p.ContainerID},
			{"K8S_POD_UID", string(p.object.UID)},
		},
	}
}

// imitation does for a pod what Multus does, in this process.
type imitation struct{}

func (imitation) prepare(p *Pod) (err error) {
	p.cluster, err = p.attachDefault()
	return err
}

func (imitation) attach(ctx context.Context, p *Pod) ([]nadv1.NetworkStatus, error) {
	all := []nadv1.NetworkStatus{p.cluster}
	for i, nw := range p.networks {
		var log strings.Builder
		result, err := p.Node.cni(&log).AddNetworkList(ctx, nw.chain, p.runtimeConf(ifname(i)))
		if err != nil {
			return nil, fmt.Errorf("attach %s of pod %q to %q: %w\n%s", ifname(i), p, nw.name, err, log.String())
		}
		status, err := statusOf(nw.name, ifname(i), result)
		if err != nil {
			return nil, err
		}
		all = append(all, status)
	}
	return all, nil
}

func (imitation) check(ctx context.Context, p *Pod) error {
	for i, nw := range p.networks {
		var log strings.Builder
		if err := p.Node.cni(&log).CheckNetworkList(ctx, nw.chain, p.runtimeConf(ifname(i))); err != nil {
			return fmt.Errorf("check %s of pod %q on %q: %w\n%s", ifname(i), p, nw.name, err, log.String())
		}
	}
	return nil
}

func (imitation) detach(ctx context.Context, p *Pod) error {
	var errs []error
	for i := len(p.networks) - 1; i >= 0; i-- {
		var log strings.Builder
		if err := p.Node.cni(&log).DelNetworkList(ctx, p.networks[i].chain, p.runtimeConf(ifname(i))); err != nil {
			errs = append(errs, fmt.Errorf("detach %s of pod %q from %q: %w\n%s",
				ifname(i), p, p.networks[i].name, err, log.String()))
		}
	}
	return errors.Join(errs...)
}

// statusOf gives what Multus writes into network-status for a chain's result.
func statusOf(network, ifname string, raw types.Result) (nadv1.NetworkStatus, error) {
	result, err := current.NewResultFromResult(raw)
	if err != nil {
		return nadv1.NetworkStatus{}, fmt.Errorf("read the CNI result of %q: %w", network, err)
	}
	status := nadv1.NetworkStatus{Name: network, Interface: ifname}
	for _, i := range result.Interfaces {
		if i.Sandbox != "" && i.Name == ifname {
			status.Mac = i.Mac
			status.Mtu = i.Mtu
		}
	}
	for _, ip := range result.IPs {
		status.IPs = append(status.IPs, ip.Address.IP.String())
	}
	return status, nil
}

// GC runs a network's GC on this node, as a runtime that knows of these attachments only. libcni first runs DEL for those
// that are in its cache and not valid; a runtime that has lost its cache leaves all to the plugins.
func (n *Node) GC(ctx context.Context, network string, valid []types.GCAttachment, cacheLost bool) error {
	namespace, name, _ := strings.Cut(network, "/")
	nw, err := n.lab.network(namespace, name)
	if err != nil {
		return fmt.Errorf("collect garbage of network %q: %w", network, err)
	}
	var log strings.Builder
	runtime := n.cni(&log)
	if cacheLost {
		runtime = n.cniWithCache(&log, filepath.Join(n.lab.dir, "no-cache"))
	}
	if err := runtime.GCNetworkList(ctx, nw.chain, &libcni.GCArgs{ValidAttachments: valid}); err != nil {
		return fmt.Errorf("collect garbage of network %q: %w\n%s", network, err, log.String())
	}
	return nil
}

// ifname names the interface on a pod's network i, counted from 0, as Multus does.
func ifname(i int) string { return fmt.Sprintf("net%d", i+1) }
