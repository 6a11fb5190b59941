// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/sluice-lb/sluice/integration/lab"
)

const (
	namespace = "default"
	// maxServices leaves room in the pool, and in the lab's ClusterIPs.
	maxServices = 60_000
	// maxPods is how many addresses podAddr has.
	maxPods = 1 << 20
	// writers is how many objects are created at the same time.
	writers = 32
)

// network has the VIP of the Service that is asked on the segment, and room for all others beside it. The second subnet is what
// says that they belong there; no pod gets an address of it.
var network = lab.NAD{
	Name: "macvlan1",
	Ranges: []lab.Range{
		{Subnet: "192.168.20.0/24", Start: "192.168.20.20", End: "192.168.20.200", Gateway: "192.168.20.1"},
		{Subnet: "10.200.0.0/15", Start: "10.201.0.2", End: "10.201.0.3"},
	},
	VIPs: []string{"192.168.20.240", "10.200.1.0-10.200.255.254"},
}.YAML()

// asked is the Service whose traffic tells when a change has reached the maps: it refuses connections while its pod is not
// ready.
const (
	asked        = "asked"
	askedTarget  = "192.168.20.240:80"
	askedService = `
apiVersion: v1
kind: Service
metadata:
  name: asked
  namespace: default
  annotations: {sluice-lb.io/networks: macvlan1, sluice-lb.io/ips: 192.168.20.240}
spec:
  type: LoadBalancer
  loadBalancerClass: sluice-lb.io/sluice
  selector: {app: asked}
  ports: [{port: 80}]
`
)

// farNodes are the nodes of the pods that are objects only. Nobody else sees a difference to nodes with an agent; they own no
// VIPs.
var farNodes = []string{"far1", "far2"}

// addAsked adds the Service that is asked, with its pod, and stops controller and agent.
func (b *bench) addAsked(ctx context.Context) error {
	for name, manifest := range map[string]string{"network.yaml": network, "asked.yaml": askedService} {
		if _, err := b.Apply(name, []byte(manifest)); err != nil {
			return err
		}
	}
	pod, err := b.Node(1).AddPod(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: asked, Labels: map[string]string{"app": asked},
		Annotations: map[string]string{nadv1.NetworkAttachmentAnnot: "macvlan1"},
	}})
	if err != nil {
		return err
	}
	b.pod = pod
	if _, err := pod.Start("traffic", "serve", "-name", asked); err != nil {
		return err
	}
	err = lab.Until(ctx, limit, "the pod listens", func(ctx context.Context) error {
		return pod.Command(ctx, "traffic", "load", "-n", "1", "127.0.0.1:80").Run()
	})
	if err != nil {
		return err
	}
	if err := pod.SetReady(true); err != nil {
		return err
	}
	if _, err := b.Served(ctx, namespace+"/"+asked, 1, pod.String()); err != nil {
		return err
	}
	return errors.Join(b.Controller().Stop(ctx), b.Agent(b.Node(1)).Stop(ctx))
}

// fill creates all objects: those that users write, and those that the scheduler, kubelets, Multus and agents of the far nodes
// would.
func (b *bench) fill(ctx context.Context) error {
	config := b.api.Config()
	config.ContentType = runtime.ContentTypeProtobuf
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	for i, name := range farNodes {
		if err := createNode(ctx, client, name, i); err != nil {
			return err
		}
	}
	core := client.CoreV1()
	if err := each(ctx, b.services, func(ctx context.Context, i int) error {
		_, err := core.Services(namespace).Create(ctx, service(i), metav1.CreateOptions{})
		return err
	}); err != nil {
		return err
	}
	return each(ctx, b.services*b.endpoints, func(ctx context.Context, i int) error {
		pod, err := core.Pods(namespace).Create(ctx, podOf(i/b.endpoints, i), metav1.CreateOptions{})
		if err != nil {
			return err
		}
		now := metav1.NewTime(time.Now())
		pod.Status.Phase, pod.Status.StartTime = corev1.PodRunning, &now
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now}}
		_, err = core.Pods(namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
		return err
	})
}

// each does something for the numbers from 0 to n-1, some at the same time, until the first error.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for i := 0; i < n && ctx.Err() == nil; i++ {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// createNode makes a node known that is ready, and its facts.
func createNode(ctx context.Context, client kubernetes.Interface, name string, number int) error {
	node, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelNodeExcludeBalancers: ""}},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = client.CoordinationV1().Leases("sluice-system").Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"sluice-lb.io/node-facts": "true"},
			Annotations: map[string]string{
				"sluice-lb.io/segments": "eth1", "sluice-lb.io/macs": fmt.Sprintf(`{"eth1":"02:00:5e:21:00:%02x"}`, number),
			},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: name, UID: node.UID}},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &name},
	}, metav1.CreateOptions{})
	return err
}

func serviceName(i int) string { return fmt.Sprintf("service-%05d", i) }

// service gives one of the Services. There are fewer node ports than Services.
func service(i int) *corev1.Service {
	class, nodePorts := "sluice-lb.io/sluice", false
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: serviceName(i), Annotations: map[string]string{"sluice-lb.io/networks": "macvlan1"},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: &class, AllocateLoadBalancerNodePorts: &nodePorts,
			Selector: map[string]string{"app": serviceName(i)},
			Ports:    []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
}

// podOf gives pod number i of all, which belongs to a Service. Multus has attached it.
func podOf(service, i int) *corev1.Pod {
	status, err := json.Marshal([]nadv1.NetworkStatus{
		{Name: "cluster", Interface: "eth0", IPs: []string{podAddr(10, i)}, Mac: podMAC(2, i), Default: true},
		{Name: "default/macvlan1", Interface: "net1", IPs: []string{podAddr(11, i)}, Mac: podMAC(3, i)},
	})
	if err != nil {
		panic(err) // strings always have a text form
	}
	mount := false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("pod-%06d", i), Labels: map[string]string{"app": serviceName(service)},
			Annotations: map[string]string{
				nadv1.NetworkAttachmentAnnot: "macvlan1", nadv1.NetworkStatusAnnot: string(status),
			},
		},
		Spec: corev1.PodSpec{
			NodeName: farNodes[i%len(farNodes)], AutomountServiceAccountToken: &mount,
			Containers: []corev1.Container{{Name: "main", Image: "registry.invalid/main"}},
		},
	}
}

func podAddr(net byte, i int) string {
	return netip.AddrFrom4([4]byte{net, 128 | byte(i>>16), byte(i >> 8), byte(i)}).String()
}

func podMAC(net byte, i int) string {
	return fmt.Sprintf("02:%02x:00:%02x:%02x:%02x", net, byte(i>>16), byte(i>>8), byte(i))
}
