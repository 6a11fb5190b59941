// SPDX-License-Identifier: Apache-2.0

// Package bar owns how benchmarks compare what they have measured with what the project promises. It must not measure.
package bar

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// ErrMissed is what Check returns for a bar that is missed.
var ErrMissed = errors.New("bar missed")

// Check prints a measure and its bar, and returns an error if that is missed.
func Check(ok bool, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if ok {
		fmt.Println("ok      " + text)
		return nil
	}
	fmt.Println("MISSED  " + text)
	return fmt.Errorf("%w: %s", ErrMissed, text)
}

// Median gives the upper median of values, of which there must be one at least.
func Median[T int | float64](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// P99 gives the least of values, of which there must be one at least, that 99 % of them do not exceed (nearest rank).
func P99[T int | float64](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[int(math.Ceil(0.99*float64(len(sorted))))-1]
}
