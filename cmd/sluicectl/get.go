// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/sluice-lb/sluice/daemon/api"
)

// patience bounds a call to the agent, which answers from memory.
const patience = 5 * time.Second

// noun is something that `get` prints: how it is fetched, and how its table looks.
type noun[T any] struct {
	cmd   *cobra.Command
	what  string // as in "get WHAT of this node"
	fetch func(*api.Client, context.Context) ([]T, error)
	table func(w io.Writer, items []T, wide bool) error
}

func getCommand() *cobra.Command {
	var socket, output string
	get := &cobra.Command{
		Use:   "get",
		Short: "Print what the agent of this node does",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	get.PersistentFlags().StringVar(&socket, "socket", api.Socket, "the agent's socket")
	get.PersistentFlags().StringVarP(&output, "output", "o", "", "format: wide, json or yaml; by default a table")
	add(get, &socket, &output, noun[api.Service]{
		cmd: &cobra.Command{
			Use:     "lb",
			Aliases: []string{"loadbalancers", "loadbalancer"},
			Short:   "Print the balanced Services with their backends, as this node balances them",
			Long: "Print the balanced Services with their backends, as this node balances them.\n\n" +
				"Counters tell what this node sent towards a backend since the backend was programmed. Replies do not count: " +
				"they leave by the backend's node.",
		},
		what: "the balancing", fetch: (*api.Client).Services, table: printTable,
	})
	add(get, &socket, &output, noun[api.Issue]{
		cmd: &cobra.Command{
			Use:     "issues",
			Aliases: []string{"issue"},
			Short:   "Print what is wrong now with objects and interfaces, as this node sees it, and what to do about it",
		},
		what: "the issues", fetch: (*api.Client).Issues, table: printIssues,
	})
	return get
}

func add[T any](get *cobra.Command, socket, output *string, n noun[T]) {
	n.cmd.Args = cobra.NoArgs
	n.cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		// formats are the values of --output, and how each prints.
		formats := map[string]func(io.Writer, []T) error{
			"":     func(w io.Writer, items []T) error { return n.table(w, items, false) },
			"wide": func(w io.Writer, items []T) error { return n.table(w, items, true) },
			"json": printJSON[T],
			"yaml": printYAML[T],
		}
		format, ok := formats[*output]
		if !ok {
			return fmt.Errorf("--output %q: want wide, json or yaml", *output)
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), patience)
		defer cancel()
		items, err := n.fetch(api.NewClient(*socket), ctx)
		if err != nil {
			return fmt.Errorf("get %s of this node: %w", n.what, err)
		}
		return format(cmd.OutOrStdout(), items)
	}
	get.AddCommand(n.cmd)
}

func printJSON[T any](w io.Writer, items []T) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(items)
}

func printYAML[T any](w io.Writer, items []T) error {
	data, err := yaml.Marshal(items)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}
