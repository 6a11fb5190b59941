// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// ElectionName is the Lease, in kube.Namespace, whose holder leads.
const ElectionName = "sluice-controller"

// Times of the election. A leader that dies is succeeded within leadTime, one retry with its jitter (client-go's factor is
// 1.2) and a request. A leader that cannot renew for renewTime stops.
const (
	leadTime  = 3 * time.Second
	renewTime = 2 * time.Second
	retryTime = 500 * time.Millisecond
	// callTime is for one request of the election. Others count leadTime from the moment at which the Lease was written, and
	// this process from the answer, which is at most this much later.
	callTime = time.Second
)

// ErrNotLeading is what a write gets from one who does not lead (any more).
var ErrNotLeading = errors.New("not leading: another controller may be")

// Election makes one of several processes lead.
type Election struct {
	client   kubernetes.Interface
	identity string
	logger   *slog.Logger
	elector  atomic.Pointer[leaderelection.LeaderElector] // of the present term

	term sync.Mutex // held by the call of lead
	err  error      // of lead; guarded by term
}

// NewElection makes an election in which this process has a name of its own, such as its pod's.
func NewElection(c *Client, identity string, logger *slog.Logger) (*Election, error) {
	config := c.own
	config.Timeout = callTime
	client, err := kubernetes.NewForConfig(&config)
	if err != nil {
		return nil, fmt.Errorf("make a client of %s: %w", c.host, err)
	}
	return &Election{client: client, identity: identity, logger: logger}, nil
}

// Leading gives ErrNotLeading from the moment on at which another process may lead. It reads the monotonic clock, which goes on
// while a process is stopped.
func (e *Election) Leading() error {
	elector := e.elector.Load()
	if elector == nil || !elector.IsLeader() || elector.Check(-callTime) != nil {
		return ErrNotLeading
	}
	return nil
}

// Run takes part until ctx ends. Whenever this process leads it calls lead, whose context ends with the lead, and waits for
// it to return. An error of lead's ends Run.
func (e *Election) Run(ctx context.Context, lead func(context.Context) error) error {
	for ctx.Err() == nil {
		if err := e.once(ctx, lead); err != nil {
			return err
		}
	}
	return nil
}

// once waits for the lead, and leads until it is lost. When ctx ends, lead returns first; then the Lease is released.
func (e *Election) once(ctx context.Context, lead func(context.Context) error) error {
	held, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: kube.Namespace, Name: ElectionName},
			Client:     e.client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: e.identity},
		},
		LeaseDuration: leadTime, RenewDeadline: renewTime, RetryPeriod: retryTime, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) {
				defer release()
				e.lead(ctx, leading, lead)
			},
			OnStoppedLeading: func() { e.logger.Info("not leading", "identity", e.identity) },
			OnNewLeader: func(identity string) {
				if identity != e.identity && identity != "" {
					e.logger.Info("another leads", "identity", identity)
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("take part in the election %s/%s: %w", kube.Namespace, ElectionName, err)
	}
	e.elector.Store(elector)
	// Who waits stops waiting when ctx ends; who leads ends his term himself.
	stop := context.AfterFunc(ctx, func() {
		if !elector.IsLeader() {
			release()
		}
	})
	defer stop()
	elector.Run(held)
	e.term.Lock()
	defer e.term.Unlock()
	return e.err
}

// lead calls lead with a context that ends with either.
func (e *Election) lead(ctx, leading context.Context, lead func(context.Context) error) {
	e.term.Lock()
	defer e.term.Unlock()
	if leading.Err() != nil {
		return // lost before it began
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(leading, cancel)()
	e.logger.Info("leading", "identity", e.identity)
	e.err = lead(ctx)
}
