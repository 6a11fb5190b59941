// SPDX-License-Identifier: Apache-2.0

package syncloop

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var opts = Options{
	MinInterval: 10 * time.Millisecond, RetryMin: 100 * time.Millisecond, RetryMax: time.Second, Resync: time.Minute,
}

// recorder is a sync function that notes when it ran, since the start of the test's time.
type recorder struct {
	began time.Time
	at    []time.Duration
	err   error
}

func (r *recorder) sync(context.Context) error {
	r.at = append(r.at, time.Since(r.began))
	return r.err
}

// start runs a Runner until the returned function is called, which fails the test if Run reports an error.
func start(t *testing.T, r *Runner) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	synctest.Wait()
	return func() {
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

func expect(t *testing.T, r *recorder, want ...time.Duration) {
	t.Helper()
	if diff := cmp.Diff(want, r.at); diff != "" {
		t.Errorf("times of syncs (-want +got):\n%s", diff)
	}
}

func TestFirstTriggerRunsAtOnceAndABurstRunsOnceMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{began: time.Now()}
		r := New(rec.sync, opts)
		defer start(t, r)()
		expect(t, rec) // nothing without a trigger
		r.Trigger()
		synctest.Wait()
		expect(t, rec, 0)
		for range 100 {
			r.Trigger()
			after(50 * time.Microsecond)
		}
		after(time.Second)
		expect(t, rec, 0, 10*time.Millisecond)
		r.Trigger()
		synctest.Wait()
		expect(t, rec, 0, 10*time.Millisecond, time.Second+5*time.Millisecond)
	})
}

func TestATriggerDuringASyncIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *Runner
		runs := 0
		r = New(func(context.Context) error {
			if runs++; runs == 1 {
				<-time.After(time.Second)
				r.Trigger()
			}
			return nil
		}, opts)
		defer start(t, r)()
		r.Trigger()
		after(2 * time.Second)
		if runs != 2 {
			t.Errorf("%d syncs, want 2", runs)
		}
	})
}

func TestFailuresAreRetriedWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ms = time.Millisecond
		rec := &recorder{began: time.Now(), err: errors.New("boom")}
		r := New(rec.sync, opts)
		defer start(t, r)()
		r.Trigger()
		after(3600 * ms)
		expect(t, rec, 0, 100*ms, 300*ms, 700*ms, 1500*ms, 2500*ms, 3500*ms)

		// A change does not wait for the retry, and success ends the retries.
		rec.err = nil
		r.Trigger()
		after(30 * time.Second)
		expect(t, rec, 0, 100*ms, 300*ms, 700*ms, 1500*ms, 2500*ms, 3500*ms, 3600*ms)

		// The next failure starts with the shortest pause again.
		rec.at, rec.err = nil, errors.New("boom")
		r.Trigger()
		after(200 * ms)
		at := 33_600 * ms
		expect(t, rec, at, at+100*ms)
	})
}

func TestResyncRunsWithoutATrigger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{began: time.Now()}
		defer start(t, New(rec.sync, opts))()
		after(150 * time.Second)
		expect(t, rec, time.Minute, 2*time.Minute)
	})
}

func TestSyncNowWaitsForASyncThatBeganAfterTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var began atomic.Int32
		first, second := errors.New("the first"), errors.New("the second")
		r := New(func(context.Context) error {
			n := began.Add(1)
			<-time.After(time.Second)
			if n == 1 {
				return first
			}
			return second
		}, opts)
		defer start(t, r)()
		r.Trigger()
		synctest.Wait() // the first sync is running
		if err := r.SyncNow(t.Context()); !errors.Is(err, second) {
			t.Errorf("SyncNow = %v, want the result of the second sync", err)
		}
	})
}

func TestSyncNowEndsWithItsContextAndWithRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		r := New(func(ctx context.Context) error {
			select {
			case <-release:
			case <-ctx.Done():
			}
			return ctx.Err()
		}, opts)
		stop := start(t, r)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.SyncNow(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("SyncNow under a stuck sync = %v, want its deadline", err)
		}
		result := make(chan error, 1)
		go func() { result <- r.SyncNow(t.Context()) }()
		synctest.Wait()
		stop()
		if err := <-result; !errors.Is(err, ErrStopped) {
			t.Errorf("SyncNow when Run ended = %v, want ErrStopped", err)
		}
		if err := r.SyncNow(t.Context()); !errors.Is(err, ErrStopped) {
			t.Errorf("SyncNow after Run ended = %v, want ErrStopped", err)
		}
	})
}

func TestSyncNowDoesNotWaitForTheMinimumInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{began: time.Now()}
		r := New(rec.sync, opts)
		defer start(t, r)()
		mustSync := func() {
			t.Helper()
			if err := r.SyncNow(t.Context()); err != nil {
				t.Error(err)
			}
		}
		r.Trigger()
		synctest.Wait()
		mustSync()
		expect(t, rec, 0, 0)
		after(time.Millisecond)
		r.Trigger() // which waits, until somebody asks for more
		after(time.Millisecond)
		mustSync()
		after(time.Second)
		expect(t, rec, 0, 0, 2*time.Millisecond)
		// The next trigger without a caller is paced again.
		mustSync()
		r.Trigger()
		after(time.Second)
		at := time.Second + 2*time.Millisecond
		expect(t, rec, 0, 0, 2*time.Millisecond, at, at+10*time.Millisecond)
	})
}

func TestConcurrentCallsShareASync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var syncs atomic.Int32
		r := New(func(context.Context) error {
			syncs.Add(1)
			<-time.After(time.Second)
			return nil
		}, opts)
		defer start(t, r)()
		r.Trigger()
		synctest.Wait() // the first sync is running
		const callers = 50
		results := make(chan error, callers)
		for range callers {
			go func() { results <- r.SyncNow(t.Context()) }()
		}
		for range callers {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if n := syncs.Load(); n != 2 {
			t.Errorf("%d callers during a sync made it %d, want 2", callers, n)
		}
	})
}
