// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
)

// figure is one measure. Without a bar it is only told.
type figure struct {
	key   string
	value float64
	unit  string
	what  string
	bar   float64 // the most that is allowed; none if it is noBar
}

var noBar = math.Inf(1)

// The bars.
const (
	maxColdCPU   = 20  // s
	maxChange    = 50  // ms, median
	maxAgentRSS  = 200 // MB
	maxIdleWrite = 0
)

var errMissed = errors.New("bar missed")

// figures are all measures, in the order that they were taken.
type figures []figure

func (f *figures) add(key string, value float64, unit string, bar float64, what string) {
	*f = append(*f, figure{key, math.Round(value*100) / 100, unit, what, bar})
}

// addTimes adds median and 99th percentile of times in ms.
func (f *figures) addTimes(prefix string, ms []float64, bar float64, what string) {
	slices.Sort(ms)
	f.add(prefix+"_ms_p50", ms[len(ms)/2], "ms", bar, what+", median")
	f.add(prefix+"_ms_p99", ms[(len(ms)*99-1)/100], "ms", noBar, what+", 99th percentile")
}

// print prints all, and is an error if a bar is missed.
func (f figures) print(asJSON bool) error {
	var missed []error
	values := map[string]float64{}
	for _, m := range f {
		values[m.key] = m.value
		verdict, bar := "ok     ", fmt.Sprintf(" (bar %g)", m.bar)
		switch {
		case m.bar == noBar:
			verdict, bar = "       ", ""
		case m.value > m.bar:
			verdict = "MISSED "
			missed = append(missed, fmt.Errorf("%w: %s", errMissed, m.key))
		}
		if !asJSON {
			fmt.Println(strings.TrimRight(fmt.Sprintf("%s %s: %g %s%s", verdict, m.what, m.value, m.unit, bar), " "))
		}
	}
	if asJSON {
		if err := json.NewEncoder(os.Stdout).Encode(values); err != nil {
			return err
		}
	}
	return errors.Join(missed...)
}
