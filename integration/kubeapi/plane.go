// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/lab"
)

// Plane runs Sluice against a Server: it is cluster.Options.API. The lab's nodes are registered there, and its pods are
// published there.
type Plane struct {
	// Options are the server's. The lab is the cluster's.
	Options
	// Controller and Agent are the ServiceAccounts, as namespace/name, that the programs run as. Empty means the admin. An
	// agent's token is bound to its node, as that of a DaemonSet's pod is. The manifests of the cluster may bring them.
	Controller, Agent string

	*Server

	kubelets map[string]*kubelet
	tokens   map[string]string // kubeconfigs by account and node
	stop     context.CancelFunc
	beating  sync.WaitGroup
}

var _ cluster.API = (*Plane)(nil)

// Start is cluster.API's.
func (p *Plane) Start(ctx context.Context, l *lab.Lab) (err error) {
	p.Lab = l
	if p.Server, err = New(ctx, p.Options); err != nil {
		return err
	}
	l.PublishTo(p.objects)
	p.kubelets, p.tokens = map[string]*kubelet{}, map[string]string{}
	alive, stop := context.WithCancel(context.WithoutCancel(ctx)) // until Close, whatever the caller bounds the start by
	p.stop = stop
	for _, n := range l.Nodes() {
		k, err := register(ctx, p.objects, n)
		if err != nil {
			return errors.Join(err, p.Close())
		}
		p.kubelets[n.Name] = k
		p.beating.Go(func() { k.live(alive) })
	}
	return nil
}

// SetNodeReady publishes a node's condition Ready, as its kubelet does.
func (p *Plane) SetNodeReady(ctx context.Context, n *lab.Node, ready bool) error {
	return p.kubelets[n.Name].setReady(ctx, ready)
}

// ControllerFlags is cluster.API's.
func (p *Plane) ControllerFlags(ctx context.Context) ([]string, error) {
	return p.flags(ctx, p.Controller, "")
}

// AgentFlags is cluster.API's.
func (p *Plane) AgentFlags(ctx context.Context, n *lab.Node) ([]string, error) {
	return p.flags(ctx, p.Agent, n.Name)
}

func (p *Plane) flags(ctx context.Context, account, node string) ([]string, error) {
	if account == "" {
		return []string{"--kubeconfig", p.Kubeconfig()}, nil
	}
	namespace, name, ok := strings.Cut(account, "/")
	if !ok {
		return nil, fmt.Errorf("run as ServiceAccount %q: want namespace/name", account)
	}
	key := account + "@" + node
	if _, ok := p.tokens[key]; !ok { // a pod's token outlives its process, and an outage of the API server
		file, err := p.AccountKubeconfig(ctx, namespace, name, node)
		if err != nil {
			return nil, err
		}
		p.tokens[key] = file
	}
	return []string{"--kubeconfig", p.tokens[key]}, nil
}

// Close is cluster.API's. Closing again succeeds.
func (p *Plane) Close() error {
	if p.stop == nil {
		return nil
	}
	p.stop()
	p.beating.Wait()
	return p.Server.Close()
}
