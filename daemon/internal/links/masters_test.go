// SPDX-License-Identifier: Apache-2.0

package links

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// world is a node with a master, interface 100, and a pod below it.
type world struct {
	t                *testing.T
	node, pod, other ns.NetNS
	masters          *Masters
	asked            int
	epochs           epochs
	links            []lb.Link // as last resolved with
	attachment       api.Attachment
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testkit.Require(t, testkit.Root)
	w := &world{t: t, node: mustNetns(t), pod: mustNetns(t), other: mustNetns(t)}
	w.attachment = api.Attachment{
		ContainerID: "c1", IfName: "net1", Pod: api.Pod{Namespace: "default", Name: "web"}, Netns: w.pod.Path(), NetnsInode: 1,
		Kind: "macvlan", Mode: "bridge", MAC: ether.MAC{2, 0, 0, 0, 0, 0x21}, Master: "eth1", MasterIndex: 100,
	}
	w.inNode(func() (err error) {
		if err := addUp("eth1", 100); err != nil {
			return err
		}
		if err := w.attach(); err != nil {
			return err
		}
		w.masters, err = OpenMasters(slog.New(slog.NewTextHandler(t.Output(), nil)))
		return err
	})
	t.Cleanup(func() {
		if err := w.masters.Close(); err != nil {
			t.Error(err)
		}
	})
	ask := w.masters.look
	w.masters.look = func(a api.Attachment) (int, error) {
		w.asked++
		return ask(a)
	}
	return w
}

func (w *world) inNode(fn func() error) {
	w.t.Helper()
	mustDo(w.t, w.node, fn)
}

// attach does what the macvlan plugin does.
func (w *world) attach() error {
	return netlink.LinkAdd(&netlink.Macvlan{Mode: netlink.MACVLAN_MODE_BRIDGE, LinkAttrs: netlink.LinkAttrs{
		Name: "net1", ParentIndex: 100, HardwareAddr: w.attachment.MAC[:], Namespace: netlink.NsFd(w.pod.Fd()),
	}})
}

// expect resolves with what a Set would give that has heard of the losses, and compares.
func (w *world) expect(master int, lost ...int) {
	w.t.Helper()
	heard := news{lost: map[int]bool{}}
	for _, index := range lost {
		heard.lost[index] = true
	}
	w.inNode(func() (err error) {
		w.links, err = list()
		return err
	})
	w.epochs.stamp(w.links, heard)
	w.expectStill(master)
}

// expectStill is expect without a new list.
func (w *world) expectStill(master int) {
	w.t.Helper()
	if got := w.masters.Resolve(w.links, []api.Attachment{w.attachment})[0].MasterIndex; got != master {
		w.t.Errorf("the pod's interface lies on interface %d, want %d", got, master)
	}
	if w.attachment.MasterIndex != 100 {
		w.t.Error("the attachment itself was changed")
	}
}

func move(from, to ns.NetNS, name string) error {
	return from.Do(func(ns.NetNS) error {
		l, err := netlink.LinkByIndex(100)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetName(l, name), netlink.LinkSetNsFd(l, int(to.Fd())))
	})
}

func TestAPodsMasterIsAskedForOncePerEpoch(t *testing.T) {
	w := newWorld(t)
	w.expect(100)
	w.expect(100)
	w.inNode(func() error { return addUp("stranger", 0) })
	w.expect(100)
	if w.asked != 1 {
		t.Errorf("the kernel was asked %d times about one attachment", w.asked)
	}
	w.expect(100, 100) // down for a moment
	if w.asked != 2 {
		t.Errorf("the kernel was asked %d times after the master was lost", w.asked)
	}
	w.attachment.NetnsInode = 2
	w.expect(100)
	if w.asked != 3 {
		t.Error("another pod of the same key was taken for the old one")
	}
}

func TestADeletedMasterIsNobodysThoughItsNumberIsTaken(t *testing.T) {
	for _, successor := range []string{"eth1", "stranger", ""} {
		w := newWorld(t)
		w.expect(100)
		w.inNode(func() error {
			err := netlink.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "eth1"}})
			if successor == "" {
				return err
			}
			return errors.Join(err, addUp(successor, 100))
		})
		w.expect(0, 100)
		asked := w.asked
		w.expectStill(0)
		if w.asked != asked {
			t.Error("an attachment without a master is asked for though nothing changed")
		}
	}
}

func TestAMasterMayGoToAnotherNamespaceAndBack(t *testing.T) {
	w := newWorld(t)
	w.expect(100)
	if err := move(w.node, w.other, "eth1"); err != nil {
		t.Fatal(err)
	}
	w.expect(0, 100)
	w.inNode(func() error { return addUp("stranger", 100) })
	w.expect(0)
	if err := move(w.other, w.node, "eth1"); err != nil {
		t.Fatal(err)
	}
	var back int
	w.inNode(func() error {
		l, err := netlinksafe.LinkByName("eth1")
		if err == nil {
			back = l.Attrs().Index
		}
		return err
	})
	if back == 100 {
		t.Fatal("it came back under a number that another has")
	}
	w.expect(back)
}

func TestAMastersNameAndMACDoNotMatter(t *testing.T) {
	w := newWorld(t)
	w.inNode(func() error {
		l, err := netlink.LinkByIndex(100)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetName(l, "eth9"), netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 9}))
	})
	w.expect(100)
}

func TestAPodMayRenameItsInterface(t *testing.T) {
	w := newWorld(t)
	rename := func(from, to string) {
		mustDo(t, w.pod, func() error {
			return netlink.LinkSetName(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: from}}, to)
		})
	}
	rename("net1", "data")
	w.expect(100)
	rename("data", "net1")
	w.attachment.MAC = ether.MAC{2, 0, 0, 0, 0, 0x99} // as if the pod had changed the interface's
	w.expect(100, 100)
	rename("net1", "data")
	w.expect(0, 100)
}

func TestWhatCannotBeAskedIsAsAtADD(t *testing.T) {
	w := newWorld(t)
	var logged bytes.Buffer
	w.masters.log = slog.New(slog.NewTextHandler(&logged, nil))
	w.attachment.Netns = "/run/netns/nowhere"
	w.expect(100)
	if logged.Len() > 0 {
		t.Errorf("a pod that ends was reported: %s", logged.String())
	}
	w.masters.look = func(api.Attachment) (int, error) { return 0, os.ErrPermission }
	w.expect(100)
	w.expect(100)
	if n := strings.Count(logged.String(), "permission"); n != 1 {
		t.Errorf("reported %d times: %s", n, logged.String())
	}
	w.masters.look = func(api.Attachment) (int, error) { return 7, nil }
	w.expect(7)
}
