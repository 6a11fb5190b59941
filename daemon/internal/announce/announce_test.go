// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/internal/ether"
)

var (
	mac   = ether.MAC{0x02, 0x00, 0x5e, 0x10, 0x00, 0x01}
	vip1  = VIP{IfIndex: 7, IfName: "eth1", MAC: mac, Addr: netip.MustParseAddr("192.168.20.240")}
	vip2  = VIP{IfIndex: 8, IfName: "eth2", MAC: mac, Addr: netip.MustParseAddr("192.168.20.241")}
	vip6  = VIP{IfIndex: 7, IfName: "eth1", MAC: mac, Addr: netip.MustParseAddr("fd00:20::f0")}
	quiet = slog.New(slog.DiscardHandler)
)

func TestFrames(t *testing.T) {
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{
			"request", request(mac, vip1.Addr),
			"ffffffffffff 02005e100001 0806 0001 0800 06 04 0001 02005e100001 c0a814f0 000000000000 c0a814f0",
		},
		{
			"reply", reply(mac, vip1.Addr),
			"ffffffffffff 02005e100001 0806 0001 0800 06 04 0002 02005e100001 c0a814f0 02005e100001 c0a814f0",
		},
		{
			"advertisement", advertisement(mac, vip6.Addr),
			"333300000001 02005e100001 86dd 60000000 0020 3a ff fd0000200000000000000000000000f0 " +
				"ff020000000000000000000000000001 88 00 fa6c 20000000 fd0000200000000000000000000000f0 02 01 02005e100001",
		},
	} {
		if got, want := hex.EncodeToString(tt.got), strings.ReplaceAll(tt.want, " ", ""); got != want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, want)
		}
	}
}

// wire notes what is sent and when, since the start of the test's time.
type wire struct {
	mu    sync.Mutex
	began time.Time
	sent  []string
	err   error
}

// join notes what is joined and left, as send does.
func (w *wire) join(m membership) (io.Closer, error) {
	if err := w.note("join %s on %d", m.group, m.ifindex); err != nil {
		return nil, err
	}
	return closer(func() error { return w.note("leave %s on %d", m.group, m.ifindex) }), nil
}

type closer func() error

func (c closer) Close() error { return c() }

func (w *wire) note(format string, args ...any) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	w.sent = append(w.sent, fmt.Sprintf("%s "+format, append([]any{time.Since(w.began)}, args...)...))
	return nil
}

func (w *wire) send(ifindex int, frame []byte) error {
	kind := map[byte]string{opRequest: "request", opReply: "reply"}[frame[21]]
	if len(frame) == naFrameLen {
		kind = "advertisement"
	}
	return w.note("%s on %d", kind, ifindex)
}

// start gives an Announcer on a wire, whose refreshes do not vary, and runs it until the returned function is called.
func start(t *testing.T) (*Announcer, *wire, func()) {
	w := &wire{began: time.Now()}
	a := newAnnouncer(quiet, w.send, newGroups(quiet, w.join))
	a.jitter = func(d time.Duration) time.Duration { return d }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	return a, w, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// after lets the test's clock run.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// both is the two frames of one announcement at each time.
func both(ifindex int, at ...time.Duration) []string {
	var out []string
	for _, d := range at {
		out = append(out, fmt.Sprintf("%s request on %d", d, ifindex), fmt.Sprintf("%s reply on %d", d, ifindex))
	}
	return out
}

// fail lets every frame from now on fail, or none; what was sent is forgotten.
func (w *wire) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent, w.err = nil, err
}

func (w *wire) expect(t *testing.T, want []string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if diff := cmp.Diff(want, w.sent); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
	w.sent = nil
}

const ms = time.Millisecond

func TestANewVIPIsAnnouncedOftenAndThenRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w, stop := start(t)
		defer stop()
		after(time.Hour)
		w.expect(t, nil)
		w.began = time.Now()
		a.Set([]VIP{vip1})
		after(130 * time.Second)
		w.expect(t, both(7, 0, 20*ms, 100*ms, 1100*ms, 2200*ms, 5000*ms, 65_000*ms, 125_000*ms))
	})
}

func TestASetThatRepeatsAVIPDoesNotStartItOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w, stop := start(t)
		defer stop()
		a.Set([]VIP{vip1})
		after(3 * time.Second)
		w.expect(t, both(7, 0, 20*ms, 100*ms, 1100*ms, 2200*ms))
		a.Set([]VIP{vip1, vip2})
		after(time.Second)
		w.expect(t, both(8, 3000*ms, 3020*ms, 3100*ms))
	})
}

func TestANewMACStartsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w, stop := start(t)
		defer stop()
		a.Set([]VIP{vip1})
		after(10 * time.Second)
		w.expect(t, both(7, 0, 20*ms, 100*ms, 1100*ms, 2200*ms, 5000*ms))
		other := vip1
		other.MAC[5]++
		a.Set([]VIP{other})
		after(time.Second)
		w.expect(t, both(7, 10_000*ms, 10_020*ms, 10_100*ms))
	})
}

func TestAVIPThatIsLostIsNotMentionedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w, stop := start(t)
		defer stop()
		a.Set([]VIP{vip1})
		after(50 * ms)
		a.Set(nil)
		after(time.Hour)
		w.expect(t, both(7, 0, 20*ms))
		a.Set([]VIP{vip1}) // it comes back as new
		after(50 * ms)
		w.expect(t, both(7, time.Hour+50*ms, time.Hour+70*ms))
	})
}

func TestAFrameThatCannotBeSentStartsTheBurstOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w, stop := start(t)
		defer stop()
		a.Set([]VIP{vip1})
		after(50 * ms)
		w.fail(errors.New("network is down"))
		after(2500 * ms) // the next, at 100 ms, fails, and so do those each second after it
		w.fail(nil)
		after(1700 * ms)
		w.expect(t, both(7, 3100*ms, 3120*ms, 3200*ms, 4200*ms))
	})
}

func TestSpreadStaysWithinATenth(t *testing.T) {
	lowest, highest := time.Hour, time.Duration(0)
	for range 1000 {
		d := spread(refresh)
		lowest, highest = min(lowest, d), max(highest, d)
	}
	if lowest < 54*time.Second || highest > 66*time.Second {
		t.Errorf("refreshes come after %s to %s", lowest, highest)
	}
	if highest-lowest < 6*time.Second {
		t.Errorf("refreshes come after %s to %s: they do not spread", lowest, highest)
	}
}
