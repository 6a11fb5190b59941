// SPDX-License-Identifier: Apache-2.0

// Sluiced is the daemon of Sluice: `sluiced agent` makes a node balance, `sluiced controller` gives out VIPs for all nodes,
// `sluiced install-plugin` puts the CNI plugin onto a node.
// Package main is flags and wiring; it must not hold logic that a package could own.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// version is set by the linker.
var version = "unknown"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "sluiced",
		Short:         "Balance Kubernetes Services on secondary networks",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(
		command("agent", "Make this node balance: read objects and attachments, program the datapath", addAgentFlags, runAgent),
		command("controller", "Give out VIPs and write EndpointSlices, for all nodes", nil, runController),
		installCommand(),
		&cobra.Command{
			Use: "version", Short: "Print the version", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), version)
				return err
			},
		},
	)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(stderr, "sluiced:", err)
		return 1
	}
	return 0
}

// command gives a subcommand that runs until its context ends.
func command(name, short string, more func(*options, flagSet), serve func(context.Context, options, *slog.Logger) error,
) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use: name, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return err
			}
			return serve(cmd.Context(), o, newLogger(o, cmd.ErrOrStderr()))
		},
	}
	o.addFlags(cmd.Flags())
	if more != nil {
		more(&o, cmd.Flags())
	}
	return cmd
}
