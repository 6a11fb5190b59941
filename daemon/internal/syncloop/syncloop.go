// SPDX-License-Identifier: Apache-2.0

// Package syncloop owns when a sync runs: soon after a trigger, never two at once, again after a failure, and now and then
// without a reason. It must not know what is synced.
package syncloop

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// ErrStopped is what SyncNow returns once Run has ended.
var ErrStopped = errors.New("the sync loop has stopped")

// Options says how a Runner paces. A zero field means its default.
type Options struct {
	// MinInterval is the least time from the end of one sync to the start of the next, so that a burst of triggers
	// costs few syncs. The first trigger after a pause runs at once, and so does SyncNow, for somebody waits for it.
	// Default 10 ms.
	MinInterval time.Duration
	// RetryMin is the time from a failed sync to the next attempt. It doubles with each failure up to RetryMax. A
	// trigger does not wait for it: what changed may be the cure. Defaults 100 ms and 30 s.
	RetryMin, RetryMax time.Duration
	// Resync is the longest time without a sync: it repairs what somebody else changed. Default 5 minutes.
	Resync time.Duration
	// Logger gets the failures; by default nobody does.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	set := func(field *time.Duration, value time.Duration) {
		if *field <= 0 {
			*field = value
		}
	}
	set(&o.MinInterval, 10*time.Millisecond)
	set(&o.RetryMin, 100*time.Millisecond)
	set(&o.RetryMax, 30*time.Second)
	set(&o.Resync, 5*time.Minute)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Runner calls one function, again and again, from the goroutine of Run.
type Runner struct {
	sync func(context.Context) error
	opts Options
	wake chan struct{} // holds one token while a sync is wanted
	now  chan struct{} // holds one token while somebody waits for one
	done chan struct{} // closed when Run has ended

	mu      sync.Mutex
	waiters []chan error // of SyncNow; guarded by mu
}

// New gives a Runner for sync, which must be idempotent. Nothing runs before Run.
func New(sync func(context.Context) error, opts Options) *Runner {
	return &Runner{
		sync: sync,
		opts: opts.withDefaults(),
		wake: make(chan struct{}, 1),
		now:  make(chan struct{}, 1),
		done: make(chan struct{}),
	}
}

// Trigger asks for a sync and returns at once. A sync that starts after the call sees everything that happened before it;
// any number of triggers may share that sync.
func (r *Runner) Trigger() {
	put(r.wake)
}

// put makes sure that the channel holds its token.
func put(token chan<- struct{}) {
	select {
	case token <- struct{}{}:
	default:
	}
}

// take makes sure that the channel does not hold its token.
func take(token <-chan struct{}) {
	select {
	case <-token:
	default:
	}
}

// SyncNow asks for a sync and waits for the result of one that began after the call. It returns ctx's error if that ends
// first, and ErrStopped once Run has ended.
func (r *Runner) SyncNow(ctx context.Context) error {
	result := make(chan error, 1) // buffered: Run must never wait for a caller that is gone
	r.mu.Lock()
	r.waiters = append(r.waiters, result)
	r.mu.Unlock()
	put(r.wake)
	put(r.now)
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-r.done:
		return ErrStopped
	}
}

// Run syncs on demand until ctx ends, and then returns nil. The first sync waits for a trigger. It must be called once.
func (r *Runner) Run(ctx context.Context) error {
	defer close(r.done)
	var (
		ended    time.Time // of the last sync
		failures int       // since the last success
		pause    = r.opts.Resync
	)
	for {
		if !r.await(ctx, pause) || !r.rest(ctx, time.Until(ended.Add(r.opts.MinInterval))) {
			return nil
		}
		err := r.once(ctx)
		ended = time.Now()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			failures, pause = 0, r.opts.Resync
		default:
			pause = r.backoff(failures)
			failures++
			r.opts.Logger.Warn("sync failed", "err", err, "retry", pause)
		}
	}
}

// await returns true when a sync is wanted or pause is over, and false when ctx ends.
func (r *Runner) await(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-r.wake:
	case <-timer.C:
	}
	return true
}

// rest returns true when d is over or somebody waits for a sync, and false when ctx ends.
func (r *Runner) rest(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-r.now:
	case <-timer.C:
	}
	return true
}

// once runs one sync and tells its result to everyone who asked before it began.
func (r *Runner) once(ctx context.Context) error {
	// This sync serves also what came during the minimum interval.
	take(r.wake)
	take(r.now)
	r.mu.Lock()
	waiters := r.waiters
	r.waiters = nil
	r.mu.Unlock()
	err := r.sync(ctx)
	for _, w := range waiters {
		w <- err
	}
	return err
}

// backoff gives the time until the next attempt after so many failures before the last.
func (r *Runner) backoff(failures int) time.Duration {
	d := r.opts.RetryMin
	for ; failures > 0 && d < r.opts.RetryMax; failures-- {
		d *= 2
	}
	return min(d, r.opts.RetryMax)
}
