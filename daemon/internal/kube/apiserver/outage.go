// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
)

// outageBackoff gives the waits between attempts while the API server is away: at most 3 to 6 s. A reflector alone would end
// at 30 to 60 s (client-go, tools/cache/reflector.go), and for so long nobody would hear that the server is back. A thousand
// nodes then begin their watches within some seconds, which is what the server's priority and fairness is for.
func outageBackoff() wait.Backoff {
	return wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 1, Steps: 10, Cap: 3 * time.Second}
}

// untilAnswered repeats a request while the API server is away, until it answers or ctx ends. Each failure is told.
func untilAnswered[T any](ctx context.Context, request func() (T, error), tell func(error)) (T, error) {
	backoff := outageBackoff()
	for {
		answer, err := request()
		if !isOutage(err) {
			return answer, err
		}
		tell(err)
		select {
		case <-ctx.Done():
			return answer, err
		case <-time.After(backoff.Step()):
		}
	}
}

// isOutage tells an API server that gives no answer, or has no etcd behind it, from one that refuses.
func isOutage(err error) bool {
	if err == nil {
		return false
	}
	var status apierrors.APIStatus
	return !errors.As(err, &status) || apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err) ||
		apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err)
}
