// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// holdEnv makes the test binary a process that holds the lock of its value until it is killed.
const holdEnv = "SLUICE_TEST_HOLD_LOCK"

func TestMain(m *testing.M) {
	path := os.Getenv(holdEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	l, err := Take(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, "held")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // the test never writes one
	_ = l.Close()
}

// mustHold starts a process that holds the lock.
func mustHold(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), holdEnv+"="+path)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("the holder says %q: %v", line, err)
	}
	return cmd
}

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill() // SIGKILL: it cannot clean up
	_ = cmd.Wait()
}

func TestALockIsHeldByOneProcessAndEndsWithIt(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "agent.lock")} {
		cmd := mustHold(t, path)
		_, err := Take(path)
		var held *HeldError
		if !errors.As(err, &held) || held.PID != cmd.Process.Pid || held.Path != path {
			t.Errorf("%s: error %v, want one that names process %d", path, err, cmd.Process.Pid)
		}
		kill(cmd)
		l, err := Take(path)
		if err != nil {
			t.Fatalf("%s: after kill -9 of the holder: %v", path, err)
		}
		if _, err := Take(path); !errors.As(err, &held) || held.PID != os.Getpid() {
			t.Errorf("%s: a second time in one process: %v", path, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := Take(path)
		if err != nil {
			t.Fatalf("%s: after it was given back: %v", path, err)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestALockThatCannotBeTakenSaysWhy(t *testing.T) {
	_, err := Take(filepath.Join(t.TempDir(), "none", "agent.lock"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in a directory that is not there: %v", err)
	}
	if got := (&HeldError{Path: "/run/x"}).Error(); got !=
		"/run/x is held by a process that cannot be seen from here (of another container or machine)" {
		t.Errorf("without a PID: %q", got)
	}
}
