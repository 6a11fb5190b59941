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

// formats are the values of --output, and how each prints.
var formats = map[string]func(io.Writer, []api.Service) error{
	"":     func(w io.Writer, s []api.Service) error { return printTable(w, s, false) },
	"wide": func(w io.Writer, s []api.Service) error { return printTable(w, s, true) },
	"json": printJSON,
	"yaml": printYAML,
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
	get.AddCommand(&cobra.Command{
		Use:     "lb",
		Aliases: []string{"loadbalancers", "loadbalancer"},
		Short:   "Print the balanced Services with their backends, as this node balances them",
		Long: "Print the balanced Services with their backends, as this node balances them.\n\n" +
			"Counters tell what this node sent towards a backend since the backend was programmed. Replies do not count: " +
			"they leave by the backend's node.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, ok := formats[output]
			if !ok {
				return fmt.Errorf("--output %q: want wide, json or yaml", output)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), patience)
			defer cancel()
			services, err := api.NewClient(socket).Services(ctx)
			if err != nil {
				return fmt.Errorf("get the balancing of this node: %w", err)
			}
			return format(cmd.OutOrStdout(), services)
		},
	})
	return get
}

func printJSON(w io.Writer, services []api.Service) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(services)
}

func printYAML(w io.Writer, services []api.Service) error {
	data, err := yaml.Marshal(services)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}
