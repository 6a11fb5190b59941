// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/testkit"
	"github.com/sluice-lb/sluice/internal/testkit/cnitest"
)

// TestTwoHundredPodsAtOnce adds 200 pods at once, then removes one half while the other is removed and added again, and
// then removes that.
func TestTwoHundredPodsAtOnce(t *testing.T) {
	testkit.Require(t, testkit.Root)
	const count = 200
	cnitest.Master(t, "eth1")
	leases := t.TempDir()
	config := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "macvlan1", "plugins": [
		{"type": "macvlan", "master": "eth1",
			"ipam": {"type": "host-local", "dataDir": %q, "subnet": "10.20.0.0/16", "gateway": "10.20.0.1"}},
		{"type": "sluice", "vips": ["10.20.255.0/24"], "required": true}]}`, leases)
	n := startNode(t, served)
	pods := make([]*cnitest.Pod, count)
	for i := range pods {
		pods[i] = cnitest.NewPod(t, fmt.Sprintf("p%03d", i))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	add := func(p *cnitest.Pod) error { _, err := p.Add(ctx, config); return err }
	del := func(p *cnitest.Pod) error { return p.Del(ctx, config) }
	again := func(p *cnitest.Pod) error { return errors.Join(del(p), add(p)) }

	began := time.Now()
	atOnce(t, pods, func(int) func(*cnitest.Pod) error { return add })
	t.Logf("%d ADD took %v", count, time.Since(began).Round(time.Millisecond))
	wantHeld(t, n, pods)

	odd, even := split(pods)
	atOnce(t, pods, func(i int) func(*cnitest.Pod) error {
		if i%2 == 0 {
			return again
		}
		return del
	})
	wantHeld(t, n, even)
	for _, p := range odd {
		wantBare(t, p)
	}

	began = time.Now()
	atOnce(t, even, func(int) func(*cnitest.Pod) error { return del })
	t.Logf("%d DEL took %v", len(even), time.Since(began).Round(time.Millisecond))
	wantHeld(t, n, nil)
	for _, p := range even {
		wantBare(t, p)
	}
	left, err := os.ReadDir(api.SpoolDir)
	if err != nil || len(left) != 0 {
		t.Errorf("the spool holds %v (%v), want nothing", left, err)
	}
	if left, _ := filepath.Glob(leases + "/macvlan1/10.*"); len(left) != 0 {
		t.Errorf("IPAM still holds %v", left)
	}
}

func split(pods []*cnitest.Pod) (odd, even []*cnitest.Pod) {
	for i, p := range pods {
		if i%2 == 0 {
			even = append(even, p)
		} else {
			odd = append(odd, p)
		}
	}
	return odd, even
}

// atOnce does something for each pod, all at the same time.
func atOnce(t *testing.T, pods []*cnitest.Pod, what func(i int) func(*cnitest.Pod) error) {
	t.Helper()
	var wg sync.WaitGroup
	for i, p := range pods {
		wg.Go(func() {
			if err := what(i)(p); err != nil {
				t.Errorf("pod %s: %v", p.Name, err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// wantHeld waits until the agent holds these pods' attachments, and checks that no two share an address or a MAC.
func wantHeld(t *testing.T, n *node, pods []*cnitest.Pod) {
	t.Helper()
	var names []string
	for _, p := range pods {
		names = append(names, p.Name)
	}
	n.wait(names...)
	addrs, macs := map[netip.Prefix]bool{}, map[string]bool{}
	for _, a := range n.set.Snapshot() {
		spooled, err := api.ReadSpool(api.SpoolDir, a.Key())
		if err != nil || spooled.MAC != a.MAC || spooled.NetnsInode != a.NetnsInode {
			t.Errorf("attachment %s is spooled as %+v (%v), and held as %+v", a.Key(), spooled, err, a)
		}
		macs[a.MAC.String()] = true
		for _, addr := range a.Addresses {
			addrs[addr] = true
		}
	}
	if len(macs) != len(pods) || len(addrs) != len(pods) {
		t.Errorf("%d pods have %d MACs and %d addresses", len(pods), len(macs), len(addrs))
	}
}

// wantBare checks that a pod has neither interface nor rule left.
func wantBare(t *testing.T, p *cnitest.Pod) {
	t.Helper()
	p.Do(t, func() error {
		links, err := netlinksafe.LinkList()
		if err != nil {
			return err
		}
		rules, err := netlinksafe.RuleList(netlink.FAMILY_V4)
		if len(links) != 1 || len(rules) != 3 { // loopback; local, main and default
			t.Errorf("pod %s has links %v and rules %v", p.Name, links, rules)
		}
		return err
	})
}
