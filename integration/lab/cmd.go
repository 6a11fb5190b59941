// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Cmd is an exec.Cmd whose process runs on a host or in a pod.
type Cmd struct {
	*exec.Cmd

	host  *Host
	netns string
}

// Start is exec.Cmd's.
func (c *Cmd) Start() error { return c.host.inside(c.netns, c.Cmd.Start) }

// Run is exec.Cmd's; its error carries what the program wrote to standard error.
func (c *Cmd) Run() error {
	_, err := c.Output()
	return err
}

// Output is exec.Cmd's; its error carries what the program wrote to standard error.
func (c *Cmd) Output() ([]byte, error) { return c.OutputAfter(make(chan error, 1)) }

// OutputAfter is Output for a program that the caller signals: started, which must not block, receives what Start gave.
func (c *Cmd) OutputAfter(started chan<- error) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	if c.Stdout == nil {
		c.Stdout = &stdout
	}
	if c.Stderr == nil {
		c.Stderr = &stderr
	}
	err := c.Start()
	started <- err
	if err == nil {
		err = c.Wait()
	}
	if err != nil {
		return stdout.Bytes(), fmt.Errorf("run %q on %s: %w: %s", strings.Join(c.Args, " "), c.host.Name, err,
			bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// Process is a program that runs on a host until it is told to end. Its output goes to a file.
type Process struct {
	Log string // path of the file with its output

	cmd  *Cmd
	done chan struct{}
	err  error // of Wait; read after done
}

// Start runs a program on the host until it is stopped or the lab ends. The log file is named after the host and the
// program, and appended to when the program is started again.
func (h *Host) Start(name string, args ...string) (*Process, error) {
	return h.start(h.netns(), h.Name+"-"+filepath.Base(name), name, args...)
}

// StartAs is Start for one of several processes that run a program: its log has a name of its own.
func (h *Host) StartAs(log, name string, args ...string) (*Process, error) {
	return h.start(h.netns(), h.Name+"-"+log, name, args...)
}

func (h *Host) start(netns, log, name string, args ...string) (*Process, error) {
	c := h.command(context.Background(), netns, name, args...)
	p := &Process{
		Log:  filepath.Join(h.logDir, log+".log"),
		cmd:  c,
		done: make(chan struct{}),
	}
	file, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", name, err)
	}
	defer file.Close()
	c.Stdout, c.Stderr = file, file
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", name, h.Name, err)
	}
	go func() {
		p.err = c.Wait()
		close(p.done)
	}()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.processes = append(h.processes, p)
	return p, nil
}

// PID is the process as the machine sees it.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Kill ends the process as a crash does, and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to end and waits until it has. A process that ends by itself, by SIGTERM included, is no error.
func (p *Process) Stop(ctx context.Context) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-ctx.Done():
		p.Kill()
		return fmt.Errorf("stop %s: still running after SIGTERM: %w", p.cmd.Args[0], context.Cause(ctx))
	}
	var exit *exec.ExitError
	if errors.As(p.err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signal() == syscall.SIGTERM {
			return nil
		}
		return fmt.Errorf("stop %s: %w", p.cmd.Args[0], p.err)
	}
	return p.err
}

// Output gives what the process has written so far.
func (p *Process) Output() string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
