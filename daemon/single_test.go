// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/lock"
)

func TestASecondAgentIsRefusedWithWhoRunsAndWhatToDo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sluice", "agent.lock")
	first, err := lockNode(path, "/sys/fs/bpf/sluice")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the run directory is %v, %v", info.Mode(), err)
	}
	_, err = lockNode(path, "/sys/fs/bpf/sluice")
	for _, want := range []string{
		"another agent runs on this node", path,
		fmt.Sprintf("process %d", os.Getpid()), fmt.Sprintf("`kill %d`", os.Getpid()),
		api.Socket, "/sys/fs/bpf/sluice", "stop it first", "nothing was changed",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not hold %q", err, want)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := lockNode(path, "/sys/fs/bpf/sluice")
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestASecondControllerOfADirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	first, err := lockManifests(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	var stdout, stderr strings.Builder
	if code := run([]string{"controller", "--manifests", dir}, &stdout, &stderr); code != 1 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{
		"another controller writes to " + filepath.Join(dir, "controller"),
		fmt.Sprintf("process %d", os.Getpid()), "stop either",
	} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("stderr %q does not hold %q", stderr.String(), want)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "controller", "[^.]*")); err != nil || len(left) != 0 {
		t.Errorf("the refused controller wrote %v, %v", left, err)
	}
}

func TestAHolderThatCannotBeSeenIsNotKilled(t *testing.T) {
	if got := killHint(&lock.HeldError{Path: "x"}); got != "" {
		t.Errorf("hint %q without a PID", got)
	}
}
