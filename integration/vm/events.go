// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
)

// lineWriter writes whole lines, for several writers that share a stream.
type lineWriter struct {
	mu  *sync.Mutex
	out io.Writer
	buf bytes.Buffer
}

// Write is io.Writer's.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.buf.Write(p)
	end := bytes.LastIndexByte(w.buf.Bytes(), '\n') + 1
	if end == 0 {
		return len(p), nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.out.Write(w.buf.Next(end)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// converter turns what one test binary prints with -test.v=test2json into the events of `go test -json`.
type converter struct {
	name  string // the package, as the events have it
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   io.Writer
}

func newConverter(name string, out io.Writer) (*converter, error) {
	c := &converter{name: name, out: out, cmd: exec.Command("go", "tool", "test2json", "-t", "-p", name)}
	c.cmd.Stdout = out
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start go tool test2json: %w", err)
	}
	return c, nil
}

// Write is io.Writer's.
func (c *converter) Write(p []byte) (int, error) { return c.stdin.Write(p) }

// end tells how the binary ended, in go test's words, which make the package's last event.
func (c *converter) end(status int) error {
	verdict := "ok  \t" + c.name + "\t0s\n"
	if status != 0 {
		verdict = fmt.Sprintf("exit status %d\nFAIL\t%s\n", status, c.name)
	}
	if _, err := io.WriteString(c.stdin, verdict); err != nil {
		return err
	}
	return c.close()
}

func (c *converter) close() error {
	if err := c.stdin.Close(); err != nil {
		return err
	}
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("convert the output of %s: %w", c.name, err)
	}
	return nil
}

// fail makes a package fail as a whole.
func fail(out io.Writer, pkg string, reason error) error {
	return verdict(out, event{Action: "fail", Package: pkg}, reason)
}

// skip counts as a test that did not run.
func skip(out io.Writer, pkg, test string, reason error) error {
	return verdict(out, event{Action: "skip", Package: pkg, Test: test}, reason)
}

// event is a line of `go test -json` (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string `json:",omitempty"`
	Output  string `json:",omitempty"`
}

func verdict(out io.Writer, e event, reason error) error {
	enc := json.NewEncoder(out)
	err := enc.Encode(event{Action: "output", Package: e.Package, Test: e.Test, Output: reason.Error() + "\n"})
	return errors.Join(err, enc.Encode(e))
}
