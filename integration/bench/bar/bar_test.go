// SPDX-License-Identifier: Apache-2.0

package bar

import "testing"

func TestRanks(t *testing.T) {
	var hundred []int
	for i := range 100 {
		hundred = append(hundred, 100-i)
	}
	for _, c := range []struct {
		values      []int
		median, p99 int
	}{
		{[]int{7}, 7, 7},
		{[]int{3, 1, 2}, 2, 3},
		{hundred, 51, 99},
		{append([]int{1000}, hundred...), 51, 100},
	} {
		if median, p99 := Median(c.values), P99(c.values); median != c.median || p99 != c.p99 {
			t.Errorf("of %v the median is %d and the 99th percentile %d, want %d and %d", c.values, median, p99, c.median, c.p99)
		}
	}
}
