// SPDX-License-Identifier: Apache-2.0

// Sluicectl shows what a node's agent does. It talks to the agent's socket and to nothing else, so it works on a node whose
// cluster is down. Noun commands change nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/daemon/api"
)

// version is set by the linker.
var version = "unknown"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "sluicectl",
		Short:         "Show how this node balances Services on secondary networks",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(getCommand())
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(stderr, "sluicectl:", explain(err))
		return 1
	}
	return 0
}

// explain adds what a person can do about the commonest failure.
func explain(err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: the socket is for root only, so run sluicectl with sudo", err)
	case errors.Is(err, api.ErrUnreachable):
		return fmt.Errorf("%w: run sluicectl on a node, as root, while `sluiced agent` runs there, or name its socket with "+
			"--socket", err)
	}
	return err
}
