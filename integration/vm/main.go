// SPDX-License-Identifier: Apache-2.0

// Command vm runs tests on other kernels than this machine's: it boots each in an emulated machine whose initramfs
// holds static test binaries, and prints their results as `go test -json` does, with the kernel in the package's name.
// It must not decide how results are told, and touches nothing on this machine.
//
//	vm [-run REGEXP] [-timeout DURATION] [-update] KERNEL...
//
// KERNEL is a directory with vmlinuz and modules/, such as hack/vm.sh makes, named after the kernel's version.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-lb/sluice/integration/vm/wire"
)

type options struct {
	run     string
	timeout time.Duration
	update  bool
	jobs    int
}

func main() { os.Exit(run()) }

func run() int {
	var o options
	flag.StringVar(&o.run, "run", "", "run these tests only, in all packages (go test -run)")
	flag.DurationVar(&o.timeout, "timeout", 25*time.Minute, "for each machine")
	flag.BoolVar(&o.update, "update", false, "write what the verifier says into "+verifierTable)
	flag.IntVar(&o.jobs, "jobs", 2, "machines at a time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := o.runAll(ctx, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (o options) runAll(ctx context.Context, dirs []string) error {
	var mu sync.Mutex
	newOut := func() io.Writer { return &lineWriter{mu: &mu, out: os.Stdout} }
	kernels, err := present(dirs, newOut())
	if err != nil || len(kernels) == 0 {
		return err
	}
	work, err := os.MkdirTemp("", "sluice-vm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := build(work); err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(o.jobs)
	if o.update {
		g.SetLimit(1) // each kernel adds to the table
	}
	for _, k := range kernels {
		g.Go(func() error { return o.runKernel(ctx, k, work, newOut()) })
	}
	return g.Wait()
}

// present gives the kernels that can be run here. One that is missing counts as a test that was skipped; that none can
// be run is an error where the machine's abilities are promised.
func present(dirs []string, out io.Writer) ([]kernel, error) {
	if len(dirs) == 0 {
		return nil, errors.New("name at least one kernel's directory")
	}
	_, unable := exec.LookPath("qemu-system-x86_64")
	if runtime.GOARCH != "amd64" {
		unable = fmt.Errorf("the machines are x86-64 and run some of this machine's programs, which is %s", runtime.GOARCH)
	}
	var kernels []kernel
	for _, dir := range dirs {
		k, err := parseKernel(dir)
		if err != nil {
			return nil, err
		}
		_, missing := os.Stat(filepath.Join(dir, "vmlinuz"))
		if err := errors.Join(unable, missing); err != nil {
			if err := skip(out, modulePath+"/integration/vm", k.String(), err); err != nil {
				return nil, err
			}
			continue
		}
		kernels = append(kernels, k)
	}
	if len(kernels) == 0 && os.Getenv(requireEnv) != "" {
		return nil, fmt.Errorf("no kernel can be run here, but %s promises the machine's abilities: see above", requireEnv)
	}
	return kernels, nil
}

// bootAttempts is how often a machine may try to come up. Emulated, 6.12 panics now and then while it patches its own code.
const bootAttempts = 3

var errNoTestRun = errors.New("a test run cannot say where its packet came in (requires kernel >= 5.17)")

// runKernel gives an error for what keeps the lane from working. Tests that fail are in the events.
func (o options) runKernel(ctx context.Context, k kernel, work string, out io.Writer) error {
	mods, err := modules(filepath.Join(k.dir, "modules"), kernelModules...)
	if err != nil {
		return fmt.Errorf("kernel %s: %w", k, err)
	}
	file := filepath.Join(work, "initramfs-"+k.String())
	defer os.Remove(file)
	if err := o.writeInitramfs(file, work, k, mods); err != nil {
		return fmt.Errorf("kernel %s: %w", k, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("it had %v (-timeout)", o.timeout))
	defer cancel()
	h := hearing{kernel: k, out: out}
	if o.run == "" && !k.atLeast(5, 17) {
		if err := skip(out, modulePath+"/bpf on "+k.String(), "all but the verifier's", errNoTestRun); err != nil {
			return err
		}
	}
	for range bootAttempts {
		err = boot(ctx, filepath.Join(k.dir, "vmlinuz"), file, h.hear)
		if err == nil || h.release != "" || ctx.Err() != nil {
			break
		}
		fmt.Fprintf(os.Stderr, "kernel %s did not come up, with nothing of ours in it yet: %v\n", k, err)
	}
	return h.close(err)
}

// hearing follows a machine's messages: suite after suite, in the order of suites.
type hearing struct {
	kernel  kernel
	release string
	out     io.Writer
	done    int        // suites that have ended
	current *converter // nil between suites
}

func (h *hearing) hear(m wire.Message) error {
	if m.Kernel != "" {
		h.release = m.Kernel
		return nil
	}
	if m.File != nil {
		return takeFile(*m.File)
	}
	if m.Suite != h.done || h.done >= len(suites) {
		return fmt.Errorf("the machine speaks of suite %d, expected %d", m.Suite, h.done)
	}
	if h.current == nil {
		var err error
		if h.current, err = newConverter(h.name(h.done), h.out); err != nil {
			return err
		}
	}
	if _, err := h.current.Write(m.Output); err != nil {
		return err
	}
	if m.Exit == nil {
		return nil
	}
	h.done++
	c := h.current
	h.current = nil
	return c.end(*m.Exit)
}

// close makes every suite that has not ended fail with the machine's error.
func (h *hearing) close(machine error) error {
	var errs []error
	if h.current != nil {
		errs = append(errs, h.current.close())
	}
	if machine == nil && h.done < len(suites) {
		machine = errors.New("the machine has not run it")
	}
	for i := h.done; i < len(suites); i++ {
		errs = append(errs, fail(h.out, h.name(i), machine))
	}
	return errors.Join(errs...)
}

// name is a suite's package as the results have it.
func (h *hearing) name(i int) string {
	release := h.release
	if release == "" {
		release = h.kernel.String()
	}
	return modulePath + "/" + suites[i].pkg + " on " + release
}

// takeFile puts an updated file into the tree.
func takeFile(f wire.File) error {
	name, err := filepath.Rel(guestSource, f.Path)
	if err != nil {
		return err
	}
	return os.WriteFile(name, f.Data, 0o644)
}
