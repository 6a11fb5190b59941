// SPDX-License-Identifier: Apache-2.0

// Package cluster owns Sluice running in a lab: the controller, an agent on each node, and the answers of sluicectl. It
// uses the programs as a user does and must not know their insides.
package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/integration/lab"
)

// settle is the limit for anything that should take milliseconds, on a machine that is busy with other things, or emulated:
// an old kernel then verifies the programs of three nodes for most of that time.
const settle = 4 * time.Minute

// Options say how to run Sluice.
type Options struct {
	lab.Options

	// Attach is the agents' --attach flag: "auto", "tcx" or "clsact". Empty means auto.
	Attach string
	// AgentFlags are further flags of the agents.
	AgentFlags []string
	// ControllerFlags are further flags of the controller.
	ControllerFlags []string
	// API is where the objects live. Nil means the lab's manifest directory.
	API API
	// Manifests are files to apply before anything starts.
	Manifests []string
}

// API is an API server, or what stands in for one.
type API interface {
	// Start starts it on the lab's Control, and has the lab publish to it. The management network is there.
	Start(ctx context.Context, l *lab.Lab) error
	// ControllerFlags lead the controller to the objects.
	ControllerFlags(ctx context.Context) ([]string, error)
	// AgentFlags lead a node's agent to the objects.
	AgentFlags(ctx context.Context, n *lab.Node) ([]string, error)
	// Close ends what Start has started.
	Close() error
}

// directory is the API of standalone mode: the lab's manifest directory.
type directory struct{ dir string }

func (d *directory) Start(_ context.Context, l *lab.Lab) error {
	d.dir = l.ManifestDir()
	return nil
}

func (d *directory) ControllerFlags(context.Context) ([]string, error) {
	return []string{"--manifests", d.dir}, nil
}

func (d *directory) AgentFlags(context.Context, *lab.Node) ([]string, error) {
	return []string{"--manifests", d.dir}, nil
}

func (d *directory) Close() error { return nil }

// Cluster is a lab with Sluice in it.
type Cluster struct {
	*lab.Lab

	// Pods are the pods that the manifests hold, for AddPod.
	Pods []*corev1.Pod

	api        API
	agentFlags []string
	agents     map[string]*lab.Process
	controller *lab.Process
}

// New builds the lab, applies the manifests and starts the controller and all agents. It returns when the agents are ready.
func New(ctx context.Context, o Options) (*Cluster, error) {
	if o.API == nil {
		o.API = &directory{}
	} else {
		o.Management = true
	}
	l, err := lab.New(ctx, o.Options)
	if err != nil {
		return nil, err
	}
	if o.Attach == "" {
		o.Attach = "auto"
	}
	c := &Cluster{
		Lab: l, api: o.API, agentFlags: append([]string{"--attach=" + o.Attach}, o.AgentFlags...),
		agents: map[string]*lab.Process{},
	}
	if err := c.start(ctx, o.Manifests, o.ControllerFlags); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close ends the API server, then everything on the lab's hosts.
func (c *Cluster) Close() error { return errors.Join(c.api.Close(), c.Lab.Close()) }

func (c *Cluster) start(ctx context.Context, manifests, controllerFlags []string) error {
	if err := c.api.Start(ctx, c.Lab); err != nil {
		return err
	}
	for _, file := range manifests {
		pods, err := c.ApplyFile(file)
		if err != nil {
			return err
		}
		c.Pods = append(c.Pods, pods...)
	}
	var err error
	if c.controller, err = c.StartController(ctx, "controller", controllerFlags...); err != nil {
		return err
	}
	for _, n := range c.Nodes() {
		if err := c.StartAgent(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// StartController starts a controller, which may be one of several. It has the name of a pod.
func (c *Cluster) StartController(ctx context.Context, pod string, flags ...string) (*lab.Process, error) {
	to, err := c.api.ControllerFlags(ctx)
	if err != nil {
		return nil, err
	}
	args := slices.Concat([]string{"-c", `POD_NAME=$0 exec sluiced controller "$@"`, pod}, to, flags)
	return c.Control.StartAs(pod, "sh", args...)
}

// StartAgent starts a node's agent and waits until it is ready.
func (c *Cluster) StartAgent(ctx context.Context, n *lab.Node) error {
	if err := c.LaunchAgent(ctx, n); err != nil {
		return err
	}
	return lab.Until(ctx, settle, "the agent of "+n.Name+" is ready", func(ctx context.Context) error { return c.Ready(ctx, n) })
}

// LaunchAgent starts a node's agent.
func (c *Cluster) LaunchAgent(ctx context.Context, n *lab.Node) error {
	flags, err := c.api.AgentFlags(ctx, n)
	if err != nil {
		return err
	}
	agent, err := n.Start("sluiced", slices.Concat([]string{"agent", "--node-name", n.Name}, flags, c.agentFlags)...)
	if err != nil {
		return err
	}
	c.agents[n.Name] = agent
	return nil
}

// Ready tells why a node's agent is not ready.
func (c *Cluster) Ready(ctx context.Context, n *lab.Node) error {
	agent := c.agents[n.Name]
	select {
	case <-agent.Done():
		return fmt.Errorf("the agent has ended:\n%s", agent.Output())
	default:
	}
	if err := api.NewClient(n.Root() + api.Socket).Ready(ctx); err != nil {
		return fmt.Errorf("%w\nlog of the agent:\n%s", err, agent.Output())
	}
	return nil
}

// Agent is the process of a node's agent.
func (c *Cluster) Agent(n *lab.Node) *lab.Process { return c.agents[n.Name] }

// Controller is the controller's process.
func (c *Cluster) Controller() *lab.Process { return c.controller }

// Services asks a node's agent for what it balances, as `sluicectl get lb -o json` prints it.
func (c *Cluster) Services(ctx context.Context, n *lab.Node) ([]api.Service, error) {
	out, err := n.Command(ctx, "sluicectl", "get", "lb", "-o", "json").Output()
	if err != nil {
		return nil, err
	}
	var services []api.Service
	if err := json.Unmarshal(out, &services); err != nil {
		return nil, fmt.Errorf("read the output of sluicectl on %s: %w", n.Name, err)
	}
	return services, nil
}

// Served waits until every node whose agent runs balances all ports of a Service, on as many VIPs as it shall have, to exactly
// these pods, given as namespace/name. It gives the ports, each of every VIP, as the first of these nodes sees them.
func (c *Cluster) Served(ctx context.Context, service string, vips int, pods ...string) ([]api.Service, error) {
	slices.Sort(pods)
	var first []api.Service
	err := lab.Until(ctx, settle, fmt.Sprintf("%s is served by %v", service, pods), func(ctx context.Context) error {
		first = nil
		for _, n := range c.running() {
			ports, err := c.Ports(ctx, n, service)
			if err != nil {
				return err
			}
			for _, port := range ports {
				if got := active(port); !slices.Equal(got, pods) {
					return fmt.Errorf("%s sends port %d to %v", n.Name, port.Port, got)
				}
			}
			if got := vipsOf(ports); len(got) != vips {
				return fmt.Errorf("%s knows the VIPs %v, want %d", n.Name, got, vips)
			}
			if first == nil {
				first = ports
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, c.Logs())
	}
	return first, nil
}

// Gone waits until no node knows the Service.
func (c *Cluster) Gone(ctx context.Context, service string) error {
	return lab.Until(ctx, settle, service+" is gone", func(ctx context.Context) error {
		for _, n := range c.running() {
			ports, err := c.Ports(ctx, n, service)
			if err != nil {
				return err
			}
			if len(ports) > 0 {
				return fmt.Errorf("%s still has it on %s", n.Name, ports[0].VIP)
			}
		}
		return nil
	})
}

// running gives the nodes whose agent runs.
func (c *Cluster) running() []*lab.Node {
	return slices.DeleteFunc(slices.Clone(c.Nodes()), func(n *lab.Node) bool {
		select {
		case <-c.agents[n.Name].Done():
			return true
		default:
			return false
		}
	})
}

// Ports gives the ports of a Service as a node balances them; none if it does not know the Service.
func (c *Cluster) Ports(ctx context.Context, n *lab.Node, service string) ([]api.Service, error) {
	services, err := c.Services(ctx, n)
	return slices.DeleteFunc(services, func(s api.Service) bool { return s.Namespace+"/"+s.Name != service }), err
}

// vipsOf names the VIPs of ports, sorted.
func vipsOf(ports []api.Service) []netip.Addr {
	var vips []netip.Addr
	for _, port := range ports {
		vips = append(vips, port.VIP)
	}
	slices.SortFunc(vips, netip.Addr.Compare)
	return slices.Compact(vips)
}

// active names the pods that take new connections, sorted.
func active(s api.Service) []string {
	names := []string{}
	for _, b := range s.Backends {
		if b.State == "active" {
			names = append(names, b.Pod)
		}
	}
	slices.Sort(names)
	return names
}

// Target is where clients find a Service: VIP and port.
func Target(s api.Service) string { return netip.AddrPortFrom(s.VIP, s.Port).String() }

// Logs gives what controller and agents have written.
func (c *Cluster) Logs() string {
	out := "--- controller\n" + c.controller.Output()
	for _, n := range c.Nodes() {
		if agent := c.agents[n.Name]; agent != nil {
			out += "--- agent of " + n.Name + "\n" + agent.Output()
		}
	}
	return out
}
