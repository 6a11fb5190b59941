// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAnIPv6VIPIsAnnouncedInItsGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w, stop := start(t)
		a.Set([]VIP{vip6})
		after(10 * time.Second)
		w.expect(t, []string{
			"0s join ff02::1:ff00:f0 on 7",
			"0s advertisement on 7", "20ms advertisement on 7", "100ms advertisement on 7", "1.1s advertisement on 7",
			"2.2s advertisement on 7", "5s advertisement on 7",
		})
		stop()
		w.expect(t, []string{"10s leave ff02::1:ff00:f0 on 7"})
	})
}

// The last 24 bits name the group.
func TestAGroupIsHeldAsLongAsAnyVIPNeedsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w, stop := start(t)
		defer stop()
		twin, elsewhere, anew := vip6, vip6, vip6
		anew.Epoch = 2 // another interface, or other neighbours, under the same number
		twin.Addr = netip.MustParseAddr("fd00:99::f0")
		elsewhere.IfIndex = 8
		for _, step := range []struct {
			vips []VIP
			want []string
		}{
			{[]VIP{vip6, twin}, []string{"join ff02::1:ff00:f0 on 7"}},
			{[]VIP{twin}, nil},
			{[]VIP{elsewhere}, []string{"leave ff02::1:ff00:f0 on 7", "join ff02::1:ff00:f0 on 8"}},
			{[]VIP{vip6}, []string{"leave ff02::1:ff00:f0 on 8", "join ff02::1:ff00:f0 on 7"}},
			{[]VIP{anew}, []string{"leave ff02::1:ff00:f0 on 7", "join ff02::1:ff00:f0 on 7"}},
			{[]VIP{vip1}, []string{"leave ff02::1:ff00:f0 on 7"}},
			{[]VIP{vip6}, []string{"join ff02::1:ff00:f0 on 7"}},
		} {
			a.Set(step.vips)
			after(time.Minute)
			w.expectGroups(t, step.want)
		}
	})
}

func TestAGroupThatCannotBeJoinedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w, stop := start(t)
		defer stop()
		w.fail(errors.New("no buffer space"))
		a.Set([]VIP{vip6})
		after(2500 * ms)
		w.fail(nil)
		after(time.Minute)
		w.expectGroups(t, []string{"join ff02::1:ff00:f0 on 7"})
	})
}

// expectGroups is expect without times and frames.
func (w *wire) expectGroups(t *testing.T, want []string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var got []string
	for _, line := range w.sent {
		if _, what, _ := strings.Cut(line, " "); strings.HasPrefix(what, "join") || strings.HasPrefix(what, "leave") {
			got = append(got, what)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
	w.sent = nil
}
