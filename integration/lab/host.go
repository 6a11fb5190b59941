// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Host is a machine of the lab: a network, a mount and a PID namespace. It has its own /run, /sys with a bpffs, /var/lib
// and /var/log; the rest of the file system is the machine's.
type Host struct {
	Name string
	// Addr and Addr6 are the host's addresses on its network; the zero Addr for a host without one.
	Addr, Addr6 netip.Addr

	holder *exec.Cmd
	alive  io.WriteCloser // the holder ends when this closes, and with it, as PID 1, everything on the host
	path   []string
	logDir string

	mu        sync.Mutex
	processes []*Process
}

// holderScript is a host's PID 1. It waits for the end of its standard input: the pipe's other end is in the process that
// built the lab and in no other, so it closes even if that process is killed, and the kernel kills the host's processes and
// frees its namespaces. (A parent-death signal would fire already when the one thread ends that forked the holder.)
// $1 is the shared IPAM directory; $2, if set, is removed at the end. Addresses are known to be unique, so nobody waits for
// duplicate address detection.
const holderScript = `set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount -t tmpfs -o mode=755 tmpfs /var/log
mkdir -p /run/netns /run/lock /var/lib/cni/networks /var/lib/nginx /var/log/nginx
mount --bind "$1" /var/lib/cni/networks
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
ip link set lo up
echo ready
cat >/dev/null
[ -z "$2" ] || rm -rf -- "$2"
`

// addHost starts a host without links.
func (l *Lab) addHost(ctx context.Context, name string) (*Host, error) {
	remove := ""
	if len(l.hosts) == 0 {
		remove = l.dir
	}
	h := &Host{
		Name: name, path: l.path, logDir: l.logDir(),
		holder: exec.Command("sh", "-c", holderScript, "sluice-lab-"+name, l.ipamDir(), remove),
	}
	h.holder.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Setpgid:    true, // Ctrl-C is for the process that built the lab
	}
	var stderr bytes.Buffer
	h.holder.Stderr = &stderr
	stdin, err := h.holder.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start host %q: %w", name, err)
	}
	stdout, err := h.holder.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start host %q: %w", name, err)
	}
	if err := h.holder.Start(); err != nil {
		return nil, fmt.Errorf("start host %q (needs root): %w", name, err)
	}
	h.alive = stdin
	stop := context.AfterFunc(ctx, func() { _ = stdin.Close() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil || line != "ready\n" {
		return nil, errors.Join(fmt.Errorf("start host %q: %s", name, strings.TrimSpace(stderr.String())), err, h.close())
	}
	l.hosts = append(l.hosts, h)
	return h, nil
}

// have notes the host's addresses.
func (h *Host) have(addr dual) { h.Addr, h.Addr6 = addr.ip4.Addr(), addr.ip6.Addr() }

// close ends the host. The kernel kills what still runs on it.
func (h *Host) close() error {
	_ = h.holder.Process.Kill()
	_ = h.alive.Close()
	var exit *exec.ExitError
	if err := h.holder.Wait(); err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("end host %q: %w", h.Name, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.processes {
		<-p.done
	}
	return nil
}

// PID is the host's first process as the machine sees it: nsenter's --target.
func (h *Host) PID() int { return h.holder.Process.Pid }

// Root is the host's file system as the machine sees it.
func (h *Host) Root() string { return fmt.Sprintf("/proc/%d/root", h.PID()) }

// Enter is the command line with which a person runs a command on the host.
func (h *Host) Enter() string { return fmt.Sprintf("nsenter -t %d -m -n -p -r", h.PID()) }

func (h *Host) netns() string { return fmt.Sprintf("/proc/%d/ns/net", h.PID()) }

// inside runs fn on a thread that is in the host's namespaces; processes that fn starts are too. netns names the network
// namespace. Goroutines that fn starts are not inside.
func (h *Host) inside(netns string, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for ever: the thread is fit for nothing else and ends with the goroutine
		done <- func() error {
			if err := h.enter(netns); err != nil {
				return fmt.Errorf("enter host %q: %w", h.Name, err)
			}
			return fn()
		}()
	}()
	return <-done
}

func (h *Host) enter(netns string) error {
	// A thread that shares its file system context with others may not change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the file system context: %w", err)
	}
	// Joining a mount namespace leads to its topmost root, which differs from the host's where the lab itself runs in a chroot.
	root, err := os.Open(h.Root())
	if err != nil {
		return err
	}
	defer root.Close()
	proc := fmt.Sprintf("/proc/%d/ns/", h.PID())
	for _, ns := range []struct {
		path string
		kind int
	}{{netns, unix.CLONE_NEWNET}, {proc + "pid", unix.CLONE_NEWPID}, {proc + "mnt", unix.CLONE_NEWNS}} {
		f, err := os.Open(ns.path)
		if err != nil {
			return err
		}
		err = unix.Setns(int(f.Fd()), ns.kind)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("join %s: %w", ns.path, err)
		}
	}
	if err := unix.Fchdir(int(root.Fd())); err != nil {
		return fmt.Errorf("change to the root directory: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change the root directory: %w", err)
	}
	return nil
}

// Command prepares a program to be run on the host. It ends with ctx.
func (h *Host) Command(ctx context.Context, name string, args ...string) *Cmd {
	return h.command(ctx, h.netns(), name, args...)
}

func (h *Host) command(ctx context.Context, netns, name string, args ...string) *Cmd {
	path := strings.Join(append(append([]string{}, h.path...), os.Getenv("PATH"), "/usr/sbin:/sbin"), ":")
	c := exec.CommandContext(ctx, lookPath(name, path), args...)
	c.Args[0] = name
	c.Env = append(os.Environ(), "PATH="+path)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return &Cmd{Cmd: c, host: h, netns: netns}
}

// lookPath finds name in a PATH other than this process's. The name itself comes back if it is nowhere, so that starting
// it gives the error.
func lookPath(name, path string) string {
	if strings.Contains(name, "/") {
		return name
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return file
		}
	}
	return name
}
