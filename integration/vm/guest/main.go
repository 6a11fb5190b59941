// SPDX-License-Identifier: Apache-2.0

// Command guest is the first process of a machine that lives for one run of tests: it mounts what the tests expect,
// loads kernel modules, runs the plan's test binaries one after another, tells what they say on the second serial port,
// and powers off. It must not run anywhere else.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/integration/vm/wire"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest is the first process of a test machine: run ./test_linux.sh vm")
		os.Exit(1)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err) // the console, which the host quotes
	}
	unix.Sync()
	fmt.Fprintln(os.Stderr, "guest: power off:", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

func run() error {
	if err := mountAll(); err != nil {
		return err
	}
	port, err := openPort("/dev/ttyS1")
	if err != nil {
		return err
	}
	defer port.Close()
	w := &writer{enc: json.NewEncoder(port)}
	err = work(w)
	if err != nil {
		w.send(wire.Message{Fault: err.Error()})
	}
	w.send(wire.Message{End: true})
	// The last octets must have left before the power does.
	return errors.Join(err, w.err, unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1))
}

func work(w *writer) error {
	text, err := os.ReadFile(wire.PlanFile)
	if err != nil {
		return err
	}
	var plan wire.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return fmt.Errorf("read %s: %w", wire.PlanFile, err)
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("ask for the kernel's release: %w", err)
	}
	w.send(wire.Message{Kernel: unix.ByteSliceToString(uts.Release[:])})
	for _, file := range plan.Modules {
		if err := load(file); err != nil {
			return err
		}
	}
	const loopback = 1
	if err := netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: loopback}}); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	for i, s := range plan.Suites {
		if err := runSuite(w, i, s); err != nil {
			return err
		}
	}
	return nil
}

func mountAll() error {
	for _, m := range []struct{ kind, dir string }{
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"devtmpfs", "/dev"},
		{"bpf", "/sys/fs/bpf"},
		{"cgroup2", "/sys/fs/cgroup"},
		{"tmpfs", "/tmp"},
		{"tmpfs", "/run"},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.dir, err)
		}
	}
	for _, dir := range []string{"/var/lib", "/var/log"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// openPort opens a serial port that carries octets as they are.
func openPort(path string) (*os.File, error) {
	port, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	fd := int(port.Fd())
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("read the settings of %s: %w", path, err)
	}
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	t.Cflag = t.Cflag&^unix.CBAUD | unix.B115200
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("make %s transparent: %w", path, err)
	}
	return port, nil
}

func load(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", file, err)
	}
	return nil
}

// writer sends messages, and remembers the first error.
type writer struct {
	enc *json.Encoder
	err error
}

func (w *writer) send(m wire.Message) {
	if err := w.enc.Encode(m); w.err == nil {
		w.err = err
	}
}
