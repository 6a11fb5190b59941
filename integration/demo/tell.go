// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const picture = `
  Sluice: LoadBalancer Services on a macvlan network

      client                     router ------- remote client
   192.168.20.5               192.168.20.1        10.20.0.5
        |                          |
  ------+---------+----------------+--+-------------------+------  192.168.20.0/24
                  |                   |                   |
             eth1 | .2           eth1 | .3           eth1 | .4
          +-------+-------+   +-------+-------+   +-------+-------+
          | node1         |   | node2         |   | node3         |
          |   nginx pod   |   |   nginx pod   |   |   nginx pod   |
          +---------------+   +---------------+   +---------------+
  Every node balances, in the kernel, on the interface that its pods share.`

// teller writes the tour for a person: numbered steps, commands with their output, and colours where they can be seen.
type teller struct {
	w      io.Writer
	colour bool
	steps  int
}

func newTeller(f *os.File) *teller {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return &teller{w: f, colour: err == nil && os.Getenv("NO_COLOR") == ""}
}

const (
	bold  = "1"
	green = "32"
	dim   = "2"
)

func (t *teller) paint(code, text string) string {
	if !t.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (t *teller) step(title string) {
	t.steps++
	fmt.Fprintf(t.w, "\n%s\n", t.paint(bold, fmt.Sprintf("%d. %s", t.steps, title)))
}

func (t *teller) say(format string, args ...any) { fmt.Fprintf(t.w, format+"\n", args...) }

// checked tells something that the demo has verified.
func (t *teller) checked(format string, args ...any) {
	fmt.Fprintf(t.w, "   %s %s\n", t.paint(green, "ok"), fmt.Sprintf(format, args...))
}

// command shows what was run where, and what it printed.
func (t *teller) command(where, line, output string) {
	fmt.Fprintf(t.w, "   %s %s\n", t.paint(dim, where+" $"), t.paint(bold, line))
	for l := range strings.Lines(output) {
		fmt.Fprintf(t.w, "     %s\n", strings.TrimRight(l, "\n"))
	}
}
