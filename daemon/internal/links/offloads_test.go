// SPDX-License-Identifier: Apache-2.0

package links

import (
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/go-cmp/cmp"
	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// Nobody can switch these offloads on here, because a virtual cable has neither. It has segmentation, which is read and
// noticed in the same way; and the kernel must know the names that are looked for.
func TestOffloadsAreReadAgainWhenTheyChange(t *testing.T) {
	testkit.Require(t, testkit.Root)
	names := told
	t.Cleanup(func() { told = names })
	const segmentation lb.Offload = "tx-tcp-segmentation"
	told = []lb.Offload{segmentation}
	node := mustNetns(t)
	mustDo(t, node, func() error {
		if err := addUp("eth1", 100); err != nil {
			return err
		}
		known, err := mustEthtool(t).FeatureNames("eth1")
		for _, name := range names {
			if _, ok := known[string(name)]; !ok {
				t.Errorf("the kernel knows no feature %q", name)
			}
		}
		return err
	})
	set, notified, stop := mustRun(t, node)
	defer stop()
	for _, on := range []bool{true, false, true} {
		var want []lb.Offload
		if on {
			want = told
		}
		mustSwitch(t, node, "eth1", segmentation, on)
		mustOffload(t, set, notified, "eth1", want)
	}
}

// A bond without cards may have the feature: it says what is wanted of them.
func TestLROIsToldOfADeviceThatHasIt(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.Bond)
	node := mustNetns(t)
	mustDo(t, node, func() error {
		bond := netlink.NewLinkBond(netlink.NewLinkAttrs())
		bond.Name, bond.Mode = "bond0", netlink.BOND_MODE_ACTIVE_BACKUP
		return errors.Join(netlink.LinkAdd(bond), netlink.LinkSetUp(bond))
	})
	set, notified, stop := mustRun(t, node)
	defer stop()
	for _, on := range []bool{true, false, true} {
		var want []lb.Offload
		if on {
			want = []lb.Offload{lb.LRO}
		}
		mustSwitch(t, node, "bond0", lb.LRO, on)
		mustOffload(t, set, notified, "bond0", want)
	}
}

func TestLowerLinks(t *testing.T) {
	link := func(index, parent, master, netns int) netlink.LinkAttrs {
		return netlink.LinkAttrs{Index: index, ParentIndex: parent, MasterIndex: master, NetNsID: netns}
	}
	got := lowerLinks([]netlink.Link{
		&netlink.Veth{LinkAttrs: link(1, 2, 5, -1)}, // its peer is here too
		&netlink.Veth{LinkAttrs: link(2, 1, 0, -1)},
		&netlink.Device{LinkAttrs: link(4, 0, 5, -1)},
		&netlink.Bond{LinkAttrs: link(5, 0, 0, -1)},
		&netlink.Vlan{LinkAttrs: link(6, 5, 0, -1)},
		&netlink.Vlan{LinkAttrs: link(7, 5, 0, 3)}, // whose parent has number 5 in another namespace
	})
	if diff := cmp.Diff(map[int][]int{5: {1, 4}, 6: {5}}, got); diff != "" {
		t.Errorf("lower links (-want +got):\n%s", diff)
	}
}

// mustRun opens and runs a Set in a namespace.
func mustRun(t *testing.T, node ns.NetNS) (set *Set, notified <-chan struct{}, stop func()) {
	t.Helper()
	wake := make(chan struct{}, 1)
	mustDo(t, node, func() (err error) {
		set, err = Open(func() {
			select {
			case wake <- struct{}{}:
			default:
			}
		}, slog.New(slog.DiscardHandler))
		return err
	})
	return set, wake, run(t, node, set)
}

func mustEthtool(t *testing.T) *ethtool.Ethtool {
	t.Helper()
	kernel, err := ethtool.NewEthtool()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kernel.Close)
	return kernel
}

func mustSwitch(t *testing.T, node ns.NetNS, name string, offload lb.Offload, on bool) {
	t.Helper()
	mustDo(t, node, func() error { return mustEthtool(t).Change(name, map[string]bool{string(offload): on}) })
}

// mustOffload waits until exactly these offloads of an interface are told.
func mustOffload(t *testing.T, set *Set, notified <-chan struct{}, name string, want []lb.Offload) {
	t.Helper()
	timeout := time.After(deadline)
	for {
		links := set.Snapshot()
		i := slices.IndexFunc(links, func(l lb.Link) bool { return l.Name == name })
		if i >= 0 && slices.Equal(links[i].Offloads, want) {
			return
		}
		select {
		case <-notified:
		case <-timeout:
			t.Fatalf("after %s: %+v, want offloads %v", deadline, links, want)
		}
	}
}
