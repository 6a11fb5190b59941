// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Node is a host that pods run on.
type Node struct {
	*Host

	// MasterName is the interface below the pods' on the segment.
	MasterName string
	// Internal is the node's address on the management network; the zero Addr without one.
	Internal netip.Addr

	lab   *Lab
	index int           // from 1
	pods  atomic.Uint32 // ever attached to the default network here, for names and addresses on it
}

// maxPods is how many pods a node may ever have: the default network has a /16 for each node.
const maxPods = 65_000

// Pod is a network namespace on a node, attached to its networks. Its methods are for one goroutine.
type Pod struct {
	Name  string     // of the pod, without its namespace
	Addr  netip.Addr // on its first network; the zero Addr if that gives no IPv4 address
	Addr6 netip.Addr // the same for IPv6
	MAC   string     // on its first network
	Netns string     // path on the node
	Node  *Node
	// ContainerID is the sandbox's, which plugins know the pod by.
	ContainerID string

	object    *corev1.Pod
	networks  []network
	cluster   nadv1.NetworkStatus // of the default network, if prepare has attached it
	processes []*Process
}

// AddPod does for a pod what the kubelet and Multus do: it makes the network namespace, attaches the default network and
// those that the pod's annotation names, and publishes the pod with its network-status. The pod is not ready yet.
func (n *Node) AddPod(ctx context.Context, object *corev1.Pod) (*Pod, error) {
	p, err := n.NewPod(ctx, object)
	if err != nil {
		return nil, err
	}
	if err := p.Attach(ctx); err != nil {
		return nil, errors.Join(err, p.Delete(context.WithoutCancel(ctx)))
	}
	return p, nil
}

// NewPod is the first half of AddPod: it makes the sandbox, whose addresses nobody knows yet. Attach is the other half.
// Delete ends the pod also without it.
func (n *Node) NewPod(ctx context.Context, object *corev1.Pod) (*Pod, error) {
	object = object.DeepCopy()
	if object.Namespace == "" {
		object.Namespace = metav1.NamespaceDefault
	}
	p := &Pod{Name: object.Name, Node: n, object: object, ContainerID: randomID(64)}
	p.Netns = "/run/netns/" + object.Namespace + "-" + object.Name
	object.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	object.Spec.NodeName = n.Name
	var err error
	if p.networks, err = n.lab.networksOf(object); err != nil {
		return nil, err
	}
	if err := n.Command(ctx, "ip", "netns", "add", filepath.Base(p.Netns)).Run(); err != nil {
		return nil, fmt.Errorf("make the network namespace of pod %q: %w", p, err)
	}
	err = with(p.path(), func(nl netlinksafe.Handle) error { return up(nl, "lo", dual{}) })
	if err == nil {
		// As on hosts: host-local gives no address twice here.
		err = p.Command(ctx, "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad").Run()
	}
	if err == nil {
		err = n.lab.objects.BindPod(object)
	}
	if err == nil {
		err = n.lab.attacher.prepare(p)
	}
	if err != nil {
		return nil, errors.Join(err, p.Delete(context.WithoutCancel(ctx)))
	}
	return p, nil
}

// networksOf resolves a pod's annotation: "name, namespace/name".
func (l *Lab) networksOf(object *corev1.Pod) ([]network, error) {
	var out []network
	for name := range strings.SplitSeq(object.Annotations[nadv1.NetworkAttachmentAnnot], ",") {
		name = strings.TrimSpace(name)
		if name == "" {
			continue
		}
		namespace, nad, ok := strings.Cut(name, "/")
		if !ok {
			namespace, nad = object.Namespace, name
		}
		nw, err := l.network(namespace, nad)
		if err != nil {
			return nil, fmt.Errorf("find network %q of pod %s/%s: %w", name, object.Namespace, object.Name, err)
		}
		out = append(out, nw)
	}
	return out, nil
}

// Attach runs CNI's ADD for the pod's networks, and publishes the pod with what they gave. If one fails, nothing is published:
// the kubelet would go on with DEL, and begin anew with another sandbox.
func (p *Pod) Attach(ctx context.Context) error {
	all, err := p.Node.lab.attacher.attach(ctx, p)
	if err != nil {
		return err
	}
	if len(all) != 1+len(p.networks) {
		return fmt.Errorf("attach pod %q: %d networks gave %+v", p, 1+len(p.networks), all)
	}
	if len(all[0].IPs) == 0 {
		return fmt.Errorf("attach pod %q to %q: the chain gave no address", p, all[0].Name)
	}
	p.object.Status.PodIP = all[0].IPs[0]
	p.object.Status.PodIPs = []corev1.PodIP{{IP: all[0].IPs[0]}}
	if len(all) > 1 {
		if err := p.have(all[1]); err != nil {
			return fmt.Errorf("attach pod %q to %q: %w", p, all[1].Name, err)
		}
	}
	return p.publish(all)
}

// have notes the first address of each family.
func (p *Pod) have(status nadv1.NetworkStatus) error {
	for _, ip := range status.IPs {
		addr, err := netip.ParseAddr(ip)
		switch {
		case err != nil:
			return err
		case addr.Is4() && !p.Addr.IsValid():
			p.Addr = addr
		case addr.Is6() && !p.Addr6.IsValid():
			p.Addr6 = addr
		}
	}
	if !p.Addr.IsValid() && !p.Addr6.IsValid() {
		return errors.New("the chain gave no address")
	}
	p.MAC = status.Mac
	return nil
}

// attachDefault gives the pod what a cluster's default network gives it: eth0 with the default route. It leads to the
// node and no further, so whatever should leave by a secondary interface, and does not, is lost as in a cluster.
func (p *Pod) attachDefault() (nadv1.NetworkStatus, error) {
	n := p.Node
	number := n.pods.Add(1)
	if number > maxPods {
		return nadv1.NetworkStatus{}, fmt.Errorf("attach pod %q to the default network: %s has had %d pods already",
			p, n.Name, maxPods)
	}
	addr := netip.AddrFrom4([4]byte{10, byte(243 + n.index), byte((number + 1) >> 8), byte(number + 1)})
	nodeEnd := fmt.Sprintf("pod%d", number)
	if err := cable(n.netns(), nodeEnd, dual{}, p.path(), "eth0", dual{ip4: netip.PrefixFrom(addr, 32)}); err != nil {
		return nadv1.NetworkStatus{}, fmt.Errorf("attach pod %q to the default network: %w", p, err)
	}
	status := nadv1.NetworkStatus{Name: "cluster", Interface: "eth0", IPs: []string{addr.String()}, Default: true}
	err := with(p.path(), func(nl netlinksafe.Handle) error {
		eth0, err := nl.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("find interface eth0: %w", err)
		}
		status.Mac = eth0.Attrs().HardwareAddr.String()
		everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		return nl.RouteAdd(&netlink.Route{
			Dst: ipNet(everywhere), LinkIndex: eth0.Attrs().Index, Scope: netlink.SCOPE_LINK,
		})
	})
	if err != nil {
		return nadv1.NetworkStatus{}, fmt.Errorf("attach pod %q to the default network: %w", p, err)
	}
	return status, nil
}

// publish writes the pod with what Multus knows of it.
func (p *Pod) publish(status []nadv1.NetworkStatus) error {
	text, err := json.Marshal(status)
	if err != nil {
		return fmt.Errorf("write the network-status of pod %q: %w", p, err)
	}
	if p.object.Annotations == nil {
		p.object.Annotations = map[string]string{}
	}
	p.object.Annotations[nadv1.NetworkStatusAnnot] = string(text)
	p.object.Status.Phase = corev1.PodRunning
	return p.SetReady(false)
}

// SetReady publishes the pod's Ready condition, as the kubelet does when the containers' probes change.
func (p *Pod) SetReady(ready bool) error {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	p.object.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
	return p.Node.lab.objects.PublishPod(p.object)
}

// SetLabels publishes the pod with other labels.
func (p *Pod) SetLabels(labels map[string]string) error {
	p.object.Labels = labels
	return p.Node.lab.objects.PublishPod(p.object)
}

// Delete ends the pod: its object goes first, at once, then processes, attachments and namespace. Deleting again, or what
// exists in part only, succeeds.
func (p *Pod) Delete(ctx context.Context) error {
	err := p.Unpublish()
	p.kill()
	return errors.Join(err, p.Detach(ctx), p.Vanish())
}

// Unpublish removes the pod's object, as the API server does at the end of a deletion. Removing it again succeeds.
func (p *Pod) Unpublish() error { return p.Node.lab.objects.RemovePod(p.object) }

// kill ends the pod's processes.
func (p *Pod) kill() {
	for _, proc := range p.processes {
		proc.Kill()
	}
	p.processes = nil
}

// Check runs CNI's CHECK for the pod's networks.
func (p *Pod) Check(ctx context.Context) error { return p.Node.lab.attacher.check(ctx, p) }

// Detach runs CNI's DEL for the pod's networks. The pod stays, and so does its network namespace.
func (p *Pod) Detach(ctx context.Context) error { return p.Node.lab.attacher.detach(ctx, p) }

// NetworkStatus gives what the pod's annotation tells of its interfaces.
func (p *Pod) NetworkStatus() ([]nadv1.NetworkStatus, error) {
	var status []nadv1.NetworkStatus
	err := json.Unmarshal([]byte(p.object.Annotations[nadv1.NetworkStatusAnnot]), &status)
	return status, err
}

// Vanish ends the pod's processes, and removes its network namespace as a node's reboot does: nobody calls DEL, and the
// manifest stays. Removing it again succeeds.
func (p *Pod) Vanish() error {
	p.kill()
	err := p.Node.inside(p.Node.netns(), func() error {
		err := unix.Unmount(p.Netns, unix.MNT_DETACH)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) { // EINVAL: a name without a mount
			return err
		}
		if err := os.Remove(p.Netns); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove the network namespace of pod %q: %w", p, err)
	}
	return nil
}

// Command prepares a program to be run in the pod's network namespace. It ends with ctx.
func (p *Pod) Command(ctx context.Context, name string, args ...string) *Cmd {
	return p.Node.command(ctx, p.path(), name, args...)
}

// Start runs a program in the pod until the pod is deleted.
func (p *Pod) Start(name string, args ...string) (*Process, error) {
	proc, err := p.Node.start(p.path(), p.Name+"-"+filepath.Base(name), name, args...)
	if err == nil {
		p.processes = append(p.processes, proc)
	}
	return proc, err
}

// Dir is the pod's own directory in the lab's, for files of its programs.
func (p *Pod) Dir() string {
	return filepath.Join(p.Node.lab.dir, "pods", p.object.Namespace+"-"+p.object.Name)
}

// Enter is the command line with which a person runs a command in the pod.
func (p *Pod) Enter() string { return p.Node.Enter() + " ip netns exec " + filepath.Base(p.Netns) }

// String gives namespace/name.
func (p *Pod) String() string { return p.object.Namespace + "/" + p.object.Name }

// path is the pod's network namespace as the machine sees it.
func (p *Pod) path() string { return p.Node.Root() + p.Netns }
