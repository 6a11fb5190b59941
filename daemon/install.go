// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sluice-lb/sluice/daemon/internal/install"
)

// installCommand gives the subcommand that an init container of the agent runs, in an image that has no shell.
func installCommand() *cobra.Command {
	var from, to, containerd string
	cmd := &cobra.Command{
		Use: "install-plugin", Short: "Put the CNI plugin where the node's container runtime looks for it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (to == "") == (containerd == "") {
				return errors.New("name the CNI directory with --to, or the file that names it with --containerd-config")
			}
			if containerd != "" {
				var err error
				if to, err = install.ContainerdDir(containerd); err != nil {
					return err
				}
			}
			changed, err := install.Plugin(from, to)
			if err != nil {
				return err
			}
			did := "installed"
			if !changed {
				did = "is already installed:"
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), did, filepath.Join(to, install.Name))
			return err
		},
	}
	cmd.Flags().StringVar(&from, "plugin", besides(install.Name), "the plugin's binary")
	cmd.Flags().StringVar(&to, "to", "", "directory in which the container runtime looks for CNI plugins, such as /opt/cni/bin")
	cmd.Flags().StringVar(&containerd, "containerd-config", "",
		"configuration file of containerd that names the directory, such as /etc/containerd/config.toml")
	return cmd
}

// besides gives the path of a program in this one's directory.
func besides(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name // which is not found, or is right
	}
	return filepath.Join(filepath.Dir(self), name)
}
