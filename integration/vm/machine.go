// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/sluice-lb/sluice/integration/vm/wire"
)

// tail is how much of the console an error quotes.
const tail = 30

// boot runs a machine until it powers off or ctx ends, and hands on its messages. The machine is emulated: slow, and
// without the need for any right.
func boot(ctx context.Context, kernel, initramfs string, hear func(wire.Message) error) error {
	dir, err := os.MkdirTemp("", "sluice-vm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// Pdeathsig is sent when the parent's thread ends, so the thread must stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	console := filepath.Join(dir, "console")
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64",
		// cmpxchg16b is emulated so that 6.12's allocator crashes (qemu 7.2).
		"-accel", "tcg,thread=multi", "-cpu", "max,-cx16", "-smp", "2", "-m", "1280",
		"-nodefaults", "-no-reboot", "-display", "none", "-kernel", kernel, "-initrd", initramfs,
		// A busy machine starves the emulated timer, which the kernel would take for broken.
		"-append", "console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check mitigations=off random.trust_cpu=on rdinit=/init",
		"-serial", "file:"+console, "-serial", "stdio")
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var complaint strings.Builder
	qemu.Stderr = &complaint
	stdout, err := qemu.StdoutPipe()
	if err != nil {
		return err
	}
	if err := qemu.Start(); err != nil {
		return fmt.Errorf("start qemu: %w", err)
	}
	ended, err := listen(json.NewDecoder(stdout), hear)
	if err != nil {
		_ = qemu.Process.Kill()
	}
	waitErr := qemu.Wait()
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("the machine did not finish: %w", context.Cause(ctx))
	case err != nil:
	case waitErr != nil:
		err = fmt.Errorf("run qemu: %w: %s", waitErr, strings.TrimSpace(complaint.String()))
	case !ended:
		err = errors.New("the machine ended without saying so: its kernel has crashed")
	}
	if err != nil {
		return fmt.Errorf("%w\nthe console's last lines:\n%s", err, lastLines(console, tail))
	}
	return nil
}

func listen(in *json.Decoder, hear func(wire.Message) error) (ended bool, err error) {
	for in.More() {
		var m wire.Message
		if err := in.Decode(&m); err != nil {
			return false, fmt.Errorf("understand the machine: %w", err)
		}
		if m.Fault != "" {
			return false, fmt.Errorf("in the machine: %s", m.Fault)
		}
		if m.End {
			return true, nil
		}
		if err := hear(m); err != nil {
			return false, err
		}
	}
	return false, nil
}

func lastLines(file string, n int) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
