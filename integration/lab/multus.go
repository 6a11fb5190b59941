// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/libcni"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
)

// attacher attaches pods to the default network and to their own.
type attacher interface {
	// prepare attaches what the runtime attaches without being asked for the pod's own networks.
	prepare(*Pod) error
	// attach gives the pod's network-status, the default network first.
	attach(context.Context, *Pod) ([]nadv1.NetworkStatus, error)
	check(context.Context, *Pod) error
	// detach undoes attach. It succeeds when it is repeated, and for a pod that was attached in part.
	detach(context.Context, *Pod) error
}

// multusCache is where Multus keeps results. The node's directory of this name is empty when it starts.
const multusCache = "/var/lib/cni/multus"

// multus is the attacher that has the real Multus (thin) do it. The runtime calls it for eth0, and its configuration names all
// networks as delegates, because there is no API server that it could ask.
type multus struct{}

// config is what the container runtime has for Multus on a pod's node.
func (m multus) config(p *Pod) (*libcni.NetworkConfigList, error) {
	delegates := []json.RawMessage{json.RawMessage(m.clusterNetwork(p.Node))}
	for _, nw := range p.networks {
		delegates = append(delegates, nw.chain.Bytes)
	}
	text, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "name": "multus-cni-network",
		"plugins": []any{map[string]any{"type": "multus", "delegates": delegates}},
	})
	if err != nil {
		return nil, fmt.Errorf("write Multus' configuration: %w", err)
	}
	return libcni.NetworkConfFromBytes(text)
}

// clusterNetwork is the chain of the default network on a node.
func (m multus) clusterNetwork(n *Node) string {
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "cluster", "plugins": [{"type": "ptp", "ipam": {
		"type": "host-local", "dataDir": "/run/cluster", "subnet": "10.244.%d.0/24", "routes": [{"dst": "0.0.0.0/0"}]}}]}`,
		n.index)
}

// prepare leaves all to Multus.
func (multus) prepare(*Pod) error { return nil }

func (m multus) attach(ctx context.Context, p *Pod) ([]nadv1.NetworkStatus, error) {
	err := m.run(p, func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
		_, err := cni.AddNetworkList(ctx, list, p.runtimeConf("eth0"))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("attach pod %q: %w", p, err)
	}
	return m.cached(p)
}

// cached makes the network-status from what Multus has cached of each network's result: without an API server it writes none.
func (m multus) cached(p *Pod) ([]nadv1.NetworkStatus, error) {
	cache := libcni.NewCNIConfigWithCacheDir(nil, p.Node.Root()+multusCache, nil)
	cluster, err := libcni.NetworkConfFromBytes([]byte(m.clusterNetwork(p.Node)))
	if err != nil {
		return nil, err
	}
	var all []nadv1.NetworkStatus
	for i, nw := range append([]network{{cluster.Name, cluster}}, p.networks...) {
		conf := p.runtimeConf("eth0")
		if i > 0 {
			conf.IfName = ifname(i - 1)
		}
		result, err := cache.GetNetworkListCachedResult(nw.chain, conf)
		if err == nil && result == nil {
			err = errors.New("its cache has none")
		}
		if err != nil {
			return nil, fmt.Errorf("read the CNI result of %q: %w", nw.name, err)
		}
		status, err := statusOf(nw.name, conf.IfName, result)
		if err != nil {
			return nil, err
		}
		status.Default = i == 0
		all = append(all, status)
	}
	return all, nil
}

func (m multus) check(ctx context.Context, p *Pod) error {
	err := m.run(p, func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
		return cni.CheckNetworkList(ctx, list, p.runtimeConf("eth0"))
	})
	if err != nil {
		return fmt.Errorf("check pod %q: %w", p, err)
	}
	return nil
}

func (m multus) detach(ctx context.Context, p *Pod) error {
	err := m.run(p, func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
		return cni.DelNetworkList(ctx, list, p.runtimeConf("eth0"))
	})
	if err != nil {
		return fmt.Errorf("detach pod %q: %w", p, err)
	}
	return nil
}

// run has the runtime call Multus. The error carries what Multus and the plugins wrote to standard error.
func (m multus) run(p *Pod, call func(*libcni.CNIConfig, *libcni.NetworkConfigList) error) error {
	list, err := m.config(p)
	if err != nil {
		return err
	}
	var log strings.Builder
	if err := call(p.Node.cni(&log), list); err != nil {
		return fmt.Errorf("%w\n%s", err, log.String())
	}
	return nil
}
