// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

func TestWatchesBeginSoonAfterAnOutage(t *testing.T) {
	for _, away := range []time.Duration{0, time.Second, time.Minute, time.Hour} {
		t.Run(away.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, told := time.Now(), 0
				request := func() (string, error) {
					if time.Since(start) < away {
						return "", fmt.Errorf("dial tcp: %w", syscall.ECONNREFUSED)
					}
					return "list", nil
				}
				got, err := untilAnswered(t.Context(), request, func(error) { told++ })
				if got != "list" || err != nil {
					t.Fatalf("got %q and %v", got, err)
				}
				if late := time.Since(start) - away; late > 6*time.Second {
					t.Errorf("the watch begins %v after the server is back, want 6 s or less", late)
				}
				if least := int(away / (6 * time.Second)); told < least || told > least*3+10 {
					t.Errorf("%d attempts in %v", told, away)
				}
			})
		})
	}
}

func TestRefusalsAreNoOutage(t *testing.T) {
	services := corev1.Resource("services")
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{fmt.Errorf("dial tcp: %w", syscall.ECONNREFUSED), true},
		{apierrors.NewServiceUnavailable("starting"), true},
		{apierrors.NewInternalError(fmt.Errorf("etcdserver: no leader")), true},
		{apierrors.NewServerTimeout(services, "list", 1), true},
		{apierrors.NewForbidden(services, "", nil), false},
		{apierrors.NewResourceExpired("too old resource version"), false},
		{apierrors.NewNotFound(services, ""), false},
	} {
		if got := isOutage(c.err); got != c.want {
			t.Errorf("isOutage(%v) = %t, want %t", c.err, got, c.want)
		}
	}
}

func TestOutageEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		_, err := untilAnswered(ctx, func() (int, error) { return 0, syscall.ECONNREFUSED }, func(error) {})
		if err == nil || time.Since(start) != 10*time.Second {
			t.Errorf("ended with %v after %v", err, time.Since(start))
		}
	})
}
