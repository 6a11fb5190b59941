// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"time"
)

// pollPeriod is how often Until looks: short enough to measure latencies of tens of milliseconds with.
const pollPeriod = 5 * time.Millisecond

// Until waits for a condition: it calls check until it returns nil, and gives up after limit with check's last error. That
// of a check which the limit itself cut short tells nothing, and is left out if there is another.
func Until(ctx context.Context, limit time.Duration, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	var err error
	for {
		now := check(ctx)
		if now == nil {
			return nil
		}
		if err == nil || ctx.Err() == nil {
			err = now
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait %v until %s: %w", limit, what, err)
		}
	}
}
