// SPDX-License-Identifier: Apache-2.0

// Package lab owns the world that the demo and the integration tests run in: nodes, a switch, clients and a router, each in
// namespaces of its own, with pods attached by the real CNI chain. It plays kubelet, and Multus unless it is given the real
// one. It must not know what the programs under test do with it, and must leave nothing behind, however it ends.
//
//	                client 192.168.20.5      router 192.168.20.1 --- remote 10.20.0.5
//	                       |                        |
//	segment 192.168.20.0/24, one bridge: -----------+----------------------------
//	       |                   |                    |
//	 eth1 .2 (node1)     eth1 .3 (node2)      eth1 .4 (node3)     masters of the pods' macvlans
//	   pods' net1          pods' net1           pods' net1        .20 to .200, from host-local
//
// Beside IPv4 everybody has IPv6 with the same last number: fd00:20::/64 on the segment, fd00:21::5 for remote. What a pod
// has of it is what its NAD gives.
package lab

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

// dual is an address of each family, with the lengths of their subnets.
type dual struct{ ip4, ip6 netip.Prefix }

func mustDual(ip4, ip6 string) dual {
	return dual{netip.MustParsePrefix(ip4), netip.MustParsePrefix(ip6)}
}

// Where everything lives on the segment. VIPs and pod addresses come from the NAD.
var (
	gateway    = mustDual("192.168.20.1/24", "fd00:20::1/64")
	firstNode  = mustDual("192.168.20.2/24", "fd00:20::2/64")
	clientAddr = mustDual("192.168.20.5/24", "fd00:20::5/64")
	remoteGate = mustDual("10.20.0.1/24", "fd00:21::1/64")
	remoteAddr = mustDual("10.20.0.5/24", "fd00:21::5/64")
)

// masterMAC is the MAC of a node's master: the one that the example of node facts gives.
func masterMAC(node int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0x00, 0x5e, 0x20, 0x00, byte(node)}
}

// next gives the addresses after these.
func (d dual) next() dual {
	return dual{netip.PrefixFrom(d.ip4.Addr().Next(), d.ip4.Bits()), netip.PrefixFrom(d.ip6.Addr().Next(), d.ip6.Bits())}
}

// prefixes gives the valid ones.
func (d dual) prefixes() []netip.Prefix {
	return slices.DeleteFunc([]netip.Prefix{d.ip4, d.ip6}, func(p netip.Prefix) bool { return !p.IsValid() })
}

// Options say what to build. The zero value has three nodes and a switch that learns.
type Options struct {
	// Nodes is the number of nodes, at most three: the addresses up to the client's are theirs. 0 means three.
	Nodes int
	// Master is the nodes' master: Card, VLAN or Bond. Empty means Card.
	Master string
	// Flood makes the switch send every frame to every port, as switches do before they have learned.
	Flood bool
	// Multus has the real Multus attach pods. It and the plugin ptp must be in Path.
	Multus bool
	// Snoop makes the switch ask for multicast groups by MLD and IGMP, and send a group's frames to its members only.
	Snoop bool
	// Management connects the nodes and Control by a network of their own, as the nodes of a cluster reach its API server.
	Management bool
	// Path lists directories that come first on PATH on every host, and in which CNI plugins are looked for.
	Path []string
}

// Lab is a running world. New and Close are for one goroutine, all else is for any.
type Lab struct {
	Client *Host // on the segment
	Remote *Host // behind the router, so that replies to it need reply routing
	Router *Host
	Switch *Host
	// Control is where a cluster's control plane is: a host without a link, but for the management network.
	Control *Host

	nodes    []*Node
	hosts    []*Host
	attacher attacher
	objects  Objects
	dir      string
	path     []string
}

// New builds the world. Whatever it has built is gone when it returns an error.
func New(ctx context.Context, o Options) (*Lab, error) {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Nodes < 0 || o.Nodes > 3 {
		return nil, fmt.Errorf("build %d nodes: the segment has room for one to three", o.Nodes)
	}
	return open(o.Path, func(l *Lab) error { return l.build(ctx, o) })
}

// NewControl builds nothing but Control, with its end of the management network: a control plane without nodes.
func NewControl(ctx context.Context, path []string) (*Lab, error) {
	return open(path, func(l *Lab) (err error) {
		if l.Control, err = l.addHost(ctx, "control"); err != nil {
			return err
		}
		return l.connectManagement()
	})
}

// open makes the lab's directory and has the rest built.
func open(path []string, build func(*Lab) error) (*Lab, error) {
	dir, err := os.MkdirTemp("", "sluice-lab-")
	if err != nil {
		return nil, fmt.Errorf("make the lab's directory: %w", err)
	}
	l := &Lab{dir: dir, path: path}
	l.objects = newManifests(l.ManifestDir(), dir)
	for _, d := range []string{l.ManifestDir(), l.ipamDir(), l.logDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, errors.Join(fmt.Errorf("make the lab's directory: %w", err), l.Close())
		}
	}
	if err := build(l); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) build(ctx context.Context, o Options) error {
	// The switch comes first: it removes the lab's directory when the process that built the lab is gone.
	for _, h := range []struct {
		name string
		dst  **Host
	}{{"switch", &l.Switch}, {"control", &l.Control}, {"client", &l.Client}, {"router", &l.Router}, {"remote", &l.Remote}} {
		host, err := l.addHost(ctx, h.name)
		if err != nil {
			return err
		}
		*h.dst = host
	}
	for i := range o.Nodes {
		host, err := l.addHost(ctx, fmt.Sprintf("node%d", i+1))
		if err != nil {
			return err
		}
		l.nodes = append(l.nodes, &Node{Host: host, MasterName: cmp.Or(o.Master, Card), lab: l, index: i + 1})
	}
	l.attacher = imitation{}
	if o.Multus {
		l.attacher = multus{}
	}
	if err := l.connect(o.Flood); err != nil {
		return err
	}
	if o.Management {
		if err := l.connectManagement(); err != nil {
			return err
		}
	}
	if !o.Snoop {
		return nil
	}
	return l.Switch.snoop(ctx)
}

// connect lays the cables and gives the addresses.
func (l *Lab) connect(flood bool) error {
	if err := l.Switch.addBridge(); err != nil {
		return err
	}
	addr := firstNode
	for _, n := range l.nodes {
		if err := l.plugMaster(n, addr, flood); err != nil {
			return err
		}
		if err := n.setMAC(n.MasterName, masterMAC(n.index)); err != nil {
			return err
		}
		n.have(addr)
		addr = addr.next()
	}
	if err := l.Switch.plug(l.Client, "eth0", clientAddr, flood); err != nil {
		return err
	}
	if err := l.Switch.plug(l.Router, "eth0", gateway, flood); err != nil {
		return err
	}
	l.Client.have(clientAddr)
	l.Router.have(gateway)
	l.Remote.have(remoteAddr)
	return errors.Join(
		l.Router.cable("eth1", remoteGate, l.Remote, "eth0", remoteAddr),
		l.Router.forward(),
		l.Client.route(remoteGate, gateway),
		l.Remote.route(gateway, remoteGate),
	)
}

// Reflect makes the switch send frames from a node back to it where their receiver is there, or to all: what macvlan's vepa
// mode asks of a switch (IEEE 802.1Qbg).
func (l *Lab) Reflect() error {
	for _, n := range l.nodes {
		if err := l.Switch.reflect(n.Name); err != nil {
			return err
		}
	}
	return nil
}

// Node gives node i, counted from 1: its name is node<i>.
func (l *Lab) Node(i int) *Node { return l.nodes[i-1] }

// Nodes gives all nodes in order.
func (l *Lab) Nodes() []*Node { return l.nodes }

// NodeByName gives the node of that name, or nil.
func (l *Lab) NodeByName(name string) *Node {
	for _, n := range l.nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Dir is the lab's directory. Every host sees it, and it goes with the lab.
func (l *Lab) Dir() string { return l.dir }

// ManifestDir is the directory that stands in for the API server.
func (l *Lab) ManifestDir() string { return filepath.Join(l.dir, "manifests") }

func (l *Lab) logDir() string { return filepath.Join(l.dir, "logs") }

// ipamDir holds host-local's allocations for all nodes. host-local allocates per node, so with one range on several nodes
// it would hand out an address twice. A real cluster uses whereabouts or a range per node; here the nodes share a disk.
func (l *Lab) ipamDir() string { return filepath.Join(l.dir, "ipam") }

// Close ends every process of the lab and frees its namespaces, links and files.
func (l *Lab) Close() error {
	var errs []error
	for _, h := range l.hosts {
		errs = append(errs, h.close())
	}
	return errors.Join(append(errs, os.RemoveAll(l.dir))...)
}

// randomID gives n hexadecimal digits that no other lab has.
func randomID(n int) string {
	b := make([]byte, (n+1)/2)
	_, _ = rand.Read(b) // crypto/rand never returns an error
	return fmt.Sprintf("%x", b)[:n]
}
