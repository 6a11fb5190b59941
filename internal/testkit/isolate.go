// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// isolatedEnv marks the process that Isolate has started.
const isolatedEnv = "SLUICE_TEST_ISOLATED"

// Isolate runs a package's tests in mount and network namespaces of their own, with an empty /run, so that they may use
// the real paths and make links without leaving anything behind. Call it from TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(testkit.Isolate(m)) }
//
// Without the rights to do so it runs the tests as they are; those that ask for Root then skip or fail by Require.
func Isolate(m *testing.M) int {
	if os.Getenv(isolatedEnv) == "" && probes[Root]() == nil {
		return runIsolated()
	}
	if os.Getenv(isolatedEnv) != "" {
		if err := emptyRun(); err != nil {
			fmt.Fprintf(os.Stderr, "isolate the tests: %v\n", err)
			return 1
		}
	}
	return m.Run()
}

// runIsolated runs this test binary again, in new namespaces.
func runIsolated() int {
	// Pdeathsig is sent when the parent's thread ends, so the thread must stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), isolatedEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintf(os.Stderr, "run the tests in namespaces of their own: %v\n", err)
	return 1
}

func emptyRun() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount an empty /run: %w", err)
	}
	return nil
}
