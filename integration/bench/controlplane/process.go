// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ticks is how many clock ticks a second has in /proc, on every architecture of Linux that we build for (proc(5), USER_HZ).
const ticks = 100

// cpuSeconds is what a process has used so far, in user space and in the kernel.
func cpuSeconds(pid int) (float64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold spaces. After it the state is field 3; utime and stime are 14 and 15.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	sum := 0
	for _, field := range fields[14-3 : 16-3] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
		}
		sum += n
	}
	return float64(sum) / ticks, nil
}

// residentMB is the resident memory of a process, in MB of 1,000,000 octets.
func residentMB(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, after, ok := strings.Cut(string(status), "VmRSS:")
	if !ok {
		return 0, fmt.Errorf("process %d has no resident memory", pid)
	}
	kib, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		return 0, fmt.Errorf("read the resident memory of process %d: %w", pid, err)
	}
	return float64(kib) * 1024 / 1e6, nil
}
