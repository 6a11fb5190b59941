// SPDX-License-Identifier: Apache-2.0

// Package announce tells the neighbours where a VIP lives, by gratuitous ARP or unsolicited Neighbor Advertisements: often at
// first, then now and then, so that neither caches nor switches forget. It also keeps the multicast groups by which neighbours
// ask for an IPv6 VIP. It must not decide who owns a VIP.
//
// Pods of this node need no announcement: whatever MAC they send to, what is for a VIP is balanced on its way out.
package announce

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sluice-lb/sluice/internal/ether"
)

// burst is when a VIP is announced, counted from when it became ours. The first reaches those who listen, the second and
// third those who lost it, the fourth those who ignore updates within a second (Linux neighbour locktime), and the last two
// those whose switch port has just begun to forward.
var burst = [...]time.Duration{
	0, 20 * time.Millisecond, 100 * time.Millisecond, 1100 * time.Millisecond, 2200 * time.Millisecond, 5 * time.Second,
}

const (
	// refresh is the mean time between announcements after the burst: switches forget a MAC after five minutes, which is
	// earlier than neighbours ask again. Each differs by up to a tenth, so that many VIPs spread.
	refresh = time.Minute
	// again is when a VIP starts over whose frame could not be sent: most likely its interface is down.
	again = time.Second
)

// VIP is an address that this node answers for.
type VIP struct {
	IfIndex int       // of the interface that it lives on
	IfName  string    // for people
	MAC     ether.MAC // where frames for it shall go
	Addr    netip.Addr
	Epoch   uint64 // another one begins anew
}

// Announcer announces a set of VIPs.
type Announcer struct {
	log    *slog.Logger
	send   func(ifindex int, frame []byte) error
	groups *groups
	close  func() error
	jitter func(time.Duration) time.Duration
	wake   chan struct{} // holds one token while want is new

	mu   sync.Mutex
	want []VIP // guarded by mu; replaced, never changed
}

// Open opens the socket that sends. It belongs to the calling thread's network namespace, and Run must run in the same.
func Open(logger *slog.Logger) (*Announcer, error) {
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	a := newAnnouncer(logger, s.send, newGroups(logger, joinGroup))
	a.close = s.close
	return a, nil
}

func newAnnouncer(logger *slog.Logger, send func(int, []byte) error, groups *groups) *Announcer {
	return &Announcer{
		log: logger, send: send, groups: groups, close: func() error { return nil }, jitter: spread, wake: make(chan struct{}, 1),
	}
}

// Close ends sending. Run must have ended.
func (a *Announcer) Close() error { return a.close() }

// Set says which VIPs are ours from now on and returns at once. What is new in any field starts from the beginning; what
// is as before goes on; what is not in the set any more is not mentioned again.
func (a *Announcer) Set(vips []VIP) {
	a.mu.Lock()
	a.want = slices.Clone(vips)
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// progress is how far the announcing of a VIP is.
type progress struct {
	since time.Time // step 0
	step  int       // next in burst; its length and more: refreshing
	due   time.Time // of the next step
	ill   bool      // the last frame could not be sent
}

// Run announces until ctx ends, and then leaves all groups and returns nil. What it cannot send or join it logs, once until
// that works again.
func (a *Announcer) Run(ctx context.Context) error {
	active := make(map[VIP]*progress)
	defer a.groups.leaveAll()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
			a.adopt(active)
		case <-timer.C:
		}
		a.groups.joinDue(time.Now()) // before the neighbours hear of a VIP, and ask for it
		next := a.announceDue(active)
		if due := a.groups.due; !due.IsZero() && due.Before(next) {
			next = due
		}
		timer.Reset(time.Until(next))
	}
}

// adopt brings what Run works on in line with the last Set.
func (a *Announcer) adopt(active map[VIP]*progress) {
	a.mu.Lock()
	want := a.want
	a.mu.Unlock()
	keep := make(map[VIP]bool, len(want))
	now := time.Now()
	for _, v := range want {
		keep[v] = true
		if active[v] == nil {
			active[v] = &progress{since: now, due: now}
		}
	}
	for v := range active {
		if !keep[v] {
			delete(active, v)
		}
	}
	a.groups.set(want, now)
}

// announceDue announces what is due and gives the time of what is due next.
func (a *Announcer) announceDue(active map[VIP]*progress) time.Time {
	next := time.Now().Add(refresh)
	for v, p := range active {
		if now := time.Now(); !p.due.After(now) {
			a.announce(v, p, now)
		}
		if p.due.Before(next) {
			next = p.due
		}
	}
	return next
}

// sendAll sends every form of announcement that there is for a VIP.
func (a *Announcer) sendAll(v VIP) error {
	if v.Addr.Is6() {
		return a.send(v.IfIndex, advertisement(v.MAC, v.Addr))
	}
	if err := a.send(v.IfIndex, request(v.MAC, v.Addr)); err != nil {
		return err
	}
	return a.send(v.IfIndex, reply(v.MAC, v.Addr))
}

// announce announces one VIP and moves its progress on.
func (a *Announcer) announce(v VIP, p *progress, now time.Time) {
	if err := a.sendAll(v); err != nil {
		if !p.ill {
			a.log.Warn("announcing a VIP failed, trying again every second", "vip", v.Addr, "ifname", v.IfName, "err", err)
		}
		*p = progress{since: now.Add(again), due: now.Add(again), ill: true}
		return
	}
	if p.ill {
		p.ill = false
		a.log.Info("announcing a VIP works again", "vip", v.Addr, "ifname", v.IfName)
	}
	if p.step++; p.step < len(burst) {
		p.due = p.since.Add(burst[p.step])
		return
	}
	p.due = now.Add(a.jitter(refresh))
}

// spread gives a random time within a tenth of d.
func spread(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5)
}
