// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-lb/sluice/daemon/internal/controller"
	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

var (
	errInjected = errors.New("injected")
	errConflict = errors.New("the object has been changed") // as an API server says of another resource version
)

// memory is an API server in memory: Source and Store. It fails as often as it is told, and checks after every write
// that no VIP is shown without its claim.
type memory struct {
	t        *testing.T
	failures func() bool
	writes   int
	version  int

	services map[string]*corev1.Service
	networks map[string]*nadv1.NetworkAttachmentDefinition
	pods     map[string]*corev1.Pod
	slices   map[string]*discoveryv1.EndpointSlice
	leases   map[string]*coordinationv1.Lease
}

func newMemory(t *testing.T) *memory {
	return &memory{
		t: t, failures: func() bool { return false },
		services: map[string]*corev1.Service{}, networks: map[string]*nadv1.NetworkAttachmentDefinition{},
		pods: map[string]*corev1.Pod{}, slices: map[string]*discoveryv1.EndpointSlice{},
		leases: map[string]*coordinationv1.Lease{},
	}
}

func (m *memory) Objects() kube.Objects {
	var o kube.Objects
	for _, x := range m.services {
		o.Services = append(o.Services, x.DeepCopy())
	}
	for _, x := range m.networks {
		o.Networks = append(o.Networks, x.DeepCopy())
	}
	for _, x := range m.pods {
		o.Pods = append(o.Pods, x.DeepCopy())
	}
	for _, x := range m.slices {
		o.Slices = append(o.Slices, x.DeepCopy())
	}
	for _, x := range m.leases {
		o.Leases = append(o.Leases, x.DeepCopy())
	}
	o.Sort()
	return o
}

func key(object metav1.Object) string { return object.GetNamespace() + "/" + object.GetName() }

func (m *memory) write(do func() error) error {
	if m.failures() {
		return errInjected
	}
	m.writes++
	m.version++
	err := do()
	m.check()
	return err
}

func (m *memory) Create(_ context.Context, object kube.Object) error {
	return m.write(func() error {
		switch object := object.(type) {
		case *discoveryv1.EndpointSlice:
			if m.slices[key(object)] != nil {
				return fs.ErrExist
			}
			m.slices[key(object)] = object.DeepCopy()
		case *coordinationv1.Lease:
			if m.leases[key(object)] != nil {
				return fs.ErrExist
			}
			m.putLease(object)
		}
		return nil
	})
}

func (m *memory) Update(_ context.Context, object kube.Object) error {
	return m.write(func() error {
		switch object := object.(type) {
		case *discoveryv1.EndpointSlice:
			m.slices[key(object)] = object.DeepCopy()
		case *coordinationv1.Lease:
			if !m.isCurrent(object) {
				return errConflict
			}
			m.putLease(object)
		}
		return nil
	})
}

func (m *memory) putLease(lease *coordinationv1.Lease) {
	stored := lease.DeepCopy()
	stored.ResourceVersion = strconv.Itoa(m.version)
	m.leases[key(lease)] = stored
}

func (m *memory) isCurrent(lease *coordinationv1.Lease) bool {
	stored := m.leases[key(lease)]
	return stored != nil && lease.ResourceVersion == stored.ResourceVersion
}

func (m *memory) UpdateServiceStatus(_ context.Context, svc *corev1.Service) error {
	return m.write(func() error {
		m.services[key(svc)] = svc.DeepCopy()
		return nil
	})
}

func (m *memory) Delete(_ context.Context, object kube.Object) error {
	return m.write(func() error {
		switch object := object.(type) {
		case *discoveryv1.EndpointSlice:
			delete(m.slices, key(object))
		case *coordinationv1.Lease:
			if m.leases[key(object)] != nil && !m.isCurrent(object) {
				return errConflict
			}
			delete(m.leases, key(object))
		}
		return nil
	})
}

// check fails the test if a status shows a VIP that its Service has not claimed. Since a claim has one name for one
// place, that also excludes two Services with one VIP.
func (m *memory) check() {
	m.t.Helper()
	for name, svc := range m.services {
		vips, err := kube.ParseVIPs(svc.Annotations[kube.AnnotationVIPs])
		if err != nil {
			m.t.Fatal(err)
		}
		for network, addrs := range vips {
			for _, addr := range addrs {
				claimed := false
				for _, lease := range m.leases {
					claimed = claimed || lease.Annotations[kube.AnnotationAddress] == addr.String() &&
						slices.Contains(holdersOf(m.t, lease), name+" on "+network)
				}
				if !claimed {
					m.t.Fatalf("Service %s shows %s on %s without a claim", name, addr, network)
				}
			}
		}
	}
}

// checkServed fails the test if nodes do not serve what statuses show, which must not be when the controller has done its
// work.
func (m *memory) checkServed() {
	m.t.Helper()
	shown := map[string]string{}
	for name, svc := range m.services {
		shown[name] = svc.Annotations[kube.AnnotationVIPs]
	}
	served := map[string]string{}
	snapshot := m.Objects().Snapshot(kube.Options{})
	for _, svc := range snapshot.Services {
		vips := map[string][]netip.Addr{}
		for _, vip := range svc.VIPs {
			if slices.ContainsFunc(snapshot.Networks, func(n lb.Network) bool { return n.Name == vip.Network }) {
				vips[vip.Network] = append(vips[vip.Network], vip.Addr)
			}
		}
		served[svc.Namespace+"/"+svc.Name] = kube.FormatVIPs(vips)
	}
	nothing := func(_, vips string) bool { return vips == "" }
	maps.DeleteFunc(shown, nothing)
	maps.DeleteFunc(served, nothing)
	if diff := gocmp.Diff(shown, served); diff != "" {
		m.t.Fatalf("VIPs (-shown +served):\n%s", diff)
	}
}

// holdersOf gives those who have a VIP by its claim: "service on network", sorted.
func holdersOf(t *testing.T, lease *coordinationv1.Lease) []string {
	t.Helper()
	text, shared := lease.Annotations[kube.AnnotationSharers]
	if !shared {
		return []string{lease.Annotations[kube.AnnotationService] + " on " + lease.Annotations[kube.AnnotationNetwork]}
	}
	var sharers []struct{ Service, Network string }
	if err := json.Unmarshal([]byte(text), &sharers); err != nil {
		t.Fatal(err)
	}
	var holders []string
	for _, s := range sharers {
		holders = append(holders, s.Service+" on "+s.Network)
	}
	return holders
}

func (m *memory) sync() error {
	return controller.New(m, m, kube.Options{}, slog.New(slog.DiscardHandler)).Sync(m.t.Context())
}

func (m *memory) putNetwork(name, segment, vips string) {
	m.networks["default/"+name] = &nadv1.NetworkAttachmentDefinition{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: nadv1.NetworkAttachmentDefinitionSpec{Config: fmt.Sprintf(`{"cniVersion": "1.0.0", "plugins": [
			{"type": "macvlan", "master": %q}, {"type": "sluice", "vips": [%q]}]}`, segment, vips)},
	}
}

// putService creates a Service, or changes one as its user may: what the controller wrote stays.
func (m *memory) putService(name, uid, class, networks, ips string) {
	svc := m.services["default/"+name]
	if svc == nil {
		svc = &corev1.Service{}
	}
	vips, shown := svc.Annotations[kube.AnnotationVIPs]
	svc.ObjectMeta = metav1.ObjectMeta{
		Namespace: "default", Name: name, UID: types.UID(uid),
		Annotations: map[string]string{kube.AnnotationNetworks: networks, kube.AnnotationIPs: ips},
	}
	if shown {
		svc.Annotations[kube.AnnotationVIPs] = vips
	}
	svc.Spec = corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: &class, Selector: map[string]string{"app": "web"},
		Ports: []corev1.ServicePort{{Port: 80}},
	}
	m.services[key(svc)] = svc
}

// share gives a Service a sharing key and a port.
func (m *memory) share(name, sharingKey string, port int32) {
	svc := m.services["default/"+name]
	svc.Annotations[kube.AnnotationSharingKey] = sharingKey
	svc.Spec.Ports = []corev1.ServicePort{{Port: port}}
}

func (m *memory) putPod(i int) {
	name := fmt.Sprintf("pod-%04d", i)
	m.pods["default/"+name] = &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, Labels: map[string]string{"app": "web"},
			Annotations: map[string]string{nadv1.NetworkStatusAnnot: fmt.Sprintf(
				`[{"name": "default/one", "ips": ["10.9.%d.%d"], "mac": "02:00:00:00:%02x:%02x"}]`, i/256, i%256, i/256, i%256)},
		},
		Spec: corev1.PodSpec{NodeName: "node1"},
	}
}

// TestNoVIPIsGivenTwiceWhateverFails changes Services and networks at random while one write in ten fails. After every
// write the store is checked; and when the failures end, one Sync must finish the work.
func TestNoVIPIsGivenTwiceWhateverFails(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 7))
		m := newMemory(t)
		m.failures = func() bool { return random.IntN(10) == 0 }
		pick := func(values ...string) string { return values[random.IntN(len(values))] }
		for range 60 {
			name := pick("a", "b", "c", "d", "e", "f")
			switch random.IntN(6) {
			case 0:
				delete(m.services, "default/"+name)
			case 1:
				m.putNetwork("one", pick("eth1", "eth2"), pick("10.0.0.1-10.0.0.4", "10.0.0.3-10.0.0.6"))
				m.putNetwork("two", "eth2", pick("10.0.0.1-10.0.0.4", "10.0.0.3-10.0.0.6"))
			case 2:
				delete(m.networks, "default/"+pick("one", "two"))
			default:
				uid := pick("x", "y")
				if old := m.services["default/"+name]; old != nil {
					uid = string(old.UID)
				}
				m.putService(name, uid, pick(kube.Class, kube.Class, kube.Class, "other"), pick("one", "two", "one, two"),
					pick("", "", "10.0.0.3", "10.0.0.4", "10.0.0.1, 10.0.0.2"))
				m.share(name, pick("", "", "k", "l"), int32(80+random.IntN(4)))
			}
			if err := m.sync(); err != nil && !errors.Is(err, errInjected) {
				t.Fatalf("seed %d: sync: %v", seed, err)
			}
		}
		m.failures = func() bool { return false }
		if err := m.sync(); err != nil {
			t.Fatalf("seed %d: sync without failures: %v", seed, err)
		}
		m.writes = 0
		if err := m.sync(); err != nil || m.writes != 0 {
			t.Fatalf("seed %d: a second sync writes %d times, err %v", seed, m.writes, err)
		}
		m.checkServed()
	}
}

// TestClaimOfAnotherControllerIsRespected has a second controller claim the address behind the first one's back.
func TestClaimOfAnotherControllerIsRespected(t *testing.T) {
	m := newMemory(t)
	m.putNetwork("one", "eth1", "10.0.0.1-10.0.0.2")
	m.putService("mine", "1", kube.Class, "one", "")
	stale := m.Objects()
	m.putService("theirs", "2", kube.Class, "one", "10.0.0.1")
	if err := m.sync(); err != nil {
		t.Fatal(err)
	}
	late := controller.New(frozen(stale), m, kube.Options{}, slog.New(slog.DiscardHandler))
	if err := late.Sync(t.Context()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("late leader: got %v, want %v", err, fs.ErrExist)
	}
	if err := m.sync(); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for name, svc := range m.services {
		got[name] = svc.Annotations[kube.AnnotationVIPs]
	}
	want := map[string]string{
		"default/mine":   `{"default/one":["10.0.0.2"]}`,
		"default/theirs": `{"default/one":["10.0.0.1"]}`,
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("VIPs (-want +got):\n%s", diff)
	}
}

// frozen is a source that has not heard the news.
type frozen kube.Objects

func (f frozen) Objects() kube.Objects { return kube.Objects(f) }

// TestOnePodMoreOrLessRewritesOneSlice checks the number of slices, too: never more than the endpoints need.
func TestOnePodMoreOrLessRewritesOneSlice(t *testing.T) {
	m := newMemory(t)
	m.putNetwork("one", "eth1", "10.0.0.1-10.0.0.9")
	m.putService("web", "1", kube.Class, "one", "")
	for i := range 250 {
		m.putPod(i)
	}
	steps := []struct {
		name          string
		do            func()
		writes, count int
	}{
		{"start: claim, three slices, status", func() {}, 5, 3},
		{"one more", func() { m.putPod(250) }, 1, 3},
		{"one less in the middle", func() { delete(m.pods, "default/pod-0120") }, 1, 3},
		{"it comes back", func() { m.putPod(120) }, 1, 3},
		{"fill the last slice", func() {
			for i := 251; i < 300; i++ {
				m.putPod(i)
			}
		}, 1, 3},
		{"one too many: a slice more", func() { m.putPod(300) }, 1, 4},
		{"one less in another: a slice less", func() { delete(m.pods, "default/pod-0000") }, 2, 3},
		{"nothing", func() {}, 0, 3},
		{"half of all", func() {
			for i := 0; i < 300; i += 2 {
				delete(m.pods, fmt.Sprintf("default/pod-%04d", i))
			}
		}, 3, 2},
	}
	for _, step := range steps {
		step.do()
		m.writes = 0
		if err := m.sync(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if m.writes != step.writes || len(m.slices) != step.count {
			t.Errorf("%s: %d writes and %d slices, want %d and %d", step.name, m.writes, len(m.slices), step.writes, step.count)
		}
		endpoints := map[string]bool{}
		for name, slice := range m.slices {
			for _, e := range slice.Endpoints {
				endpoints[e.Addresses[0]] = true
			}
			if len(slice.Endpoints) > 100 {
				t.Errorf("%s: slice %s has %d endpoints", step.name, name, len(slice.Endpoints))
			}
		}
		if len(endpoints) != len(m.pods) {
			t.Errorf("%s: %d endpoints for %d pods", step.name, len(endpoints), len(m.pods))
		}
	}
}
