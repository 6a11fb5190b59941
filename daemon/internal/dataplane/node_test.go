// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/daemon/internal/dataplane/mirror"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// node is a network and mount namespace with a bpffs and a veth master, in the thread of its test. Subtests run in other
// threads, so tests that use it have none.
type node struct {
	t    testing.TB
	pins string
}

func newNode(t testing.TB) *node {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.BPF)
	// Never unlocked: the thread dies with the test, and the namespaces with it.
	runtime.LockOSThread()
	must(t, unix.Unshare(unix.CLONE_NEWNET|unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	// The mounts vanish with the namespace, so nothing has to be taken down.
	must(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
	must(t, os.Mkdir("/run/bpf", 0o700))
	must(t, unix.Mount("bpf", "/run/bpf", "bpf", 0, ""))
	return &node{t: t, pins: "/run/bpf/sluice"}
}

func (n *node) addMaster(name string) lb.Master {
	n.t.Helper()
	peer := name + "p"
	must(n.t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}))
	link, err := netlinksafe.LinkByName(name)
	must(n.t, err)
	must(n.t, netlink.LinkSetUp(link))
	mac, err := ether.FromSlice(link.Attrs().HardwareAddr)
	must(n.t, err)
	return lb.Master{Index: link.Attrs().Index, Name: name, Segment: name, MAC: mac}
}

func (n *node) open(mode AttachMode) *Dataplane {
	n.t.Helper()
	d, err := Open(Options{PinDir: n.pins, Attach: mode, Logger: slog.New(slog.NewTextHandler(n.t.Output(), nil))})
	must(n.t, err)
	n.t.Cleanup(func() { _ = d.Close() })
	return d
}

func (n *node) apply(d *Dataplane, s lb.State) {
	n.t.Helper()
	must(n.t, d.Apply(n.t.Context(), s))
}

// state is one Service with a local and a remote backend on m.
func state(m lb.Master) lb.State {
	return lb.State{
		Node:    "a",
		Masters: []lb.Master{m},
		Pods: []lb.Pod{{
			Pod: "default/web-1", Attachment: "c1/net1", Master: m.Index, MAC: ether.MAC{2, 0, 0, 0, 0, 1},
			Addrs: []netip.Addr{netip.MustParseAddr("192.168.20.21")}, Netns: "/proc/self/ns/net",
		}},
		VIPs: []lb.VIP{{
			Master: m.Index, Segment: m.Segment, Addr: netip.MustParseAddr("192.168.20.240"), Candidates: []string{"a"}, Owned: true,
		}},
		Frontends: []lb.Frontend{{
			Service: "default/web", Network: "default/net", Master: m.Index, Protocol: lb.TCP,
			Addr: netip.MustParseAddrPort("192.168.20.240:80"),
			Backends: []lb.Backend{
				{
					Addr: netip.MustParseAddrPort("192.168.20.21:8080"), MAC: ether.MAC{2, 0, 0, 0, 0, 1},
					Node: "a", Pod: "default/web-1", Local: true, State: lb.BackendActive,
				},
				{
					Addr: netip.MustParseAddrPort("192.168.20.22:8080"), MAC: ether.MAC{2, 0, 0, 0, 0, 2},
					Node: "b", Pod: "default/web-2", State: lb.BackendActive,
				},
			},
		}},
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func exists(t testing.TB, path string) bool {
	t.Helper()
	_, err := os.Stat(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return err == nil
}

// What the kernel holds.

func addressesOf(t testing.TB, d *Dataplane) map[bpf.LbAddressKey]bpf.LbAddressInfo {
	return contents[bpf.LbAddressKey, bpf.LbAddressInfo](t, d.maps.Addresses)
}

func stationsOf(t testing.TB, d *Dataplane) map[bpf.LbStationKey]bpf.LbStation {
	return contents[bpf.LbStationKey, bpf.LbStation](t, d.maps.Stations)
}

func servicesOf(t testing.TB, d *Dataplane) map[bpf.LbServiceKey]bpf.LbService {
	return contents[bpf.LbServiceKey, bpf.LbService](t, d.maps.Services)
}

func backendsOf(t testing.TB, d *Dataplane) map[uint32]bpf.LbBackend {
	return contents[uint32, bpf.LbBackend](t, d.maps.Backends)
}

func localBackendsOf(t testing.TB, d *Dataplane) map[bpf.LbLocalBackendKey]uint32 {
	return contents[bpf.LbLocalBackendKey, uint32](t, d.maps.LocalBackends)
}

func contents[K, V comparable](t testing.TB, m *ebpf.Map) map[K]V {
	t.Helper()
	all, err := mirror.Kernel[K, V]{Map: m}.All()
	must(t, err)
	return all
}
