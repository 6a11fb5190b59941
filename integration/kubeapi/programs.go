// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Programs gives the directory with etcd, kube-apiserver, kube-controller-manager and kubectl. hack/kube.sh knows where that
// is, and builds what is missing, which takes many minutes. The caller's directory must be in the project's module.
func Programs(ctx context.Context) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	return output(exec.CommandContext(ctx, filepath.Join(root, "hack", "kube.sh")))
}

// moduleRoot is the top of the tree.
func moduleRoot(ctx context.Context) (string, error) {
	return output(exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}"))
}

// output gives what a program prints. The error carries what it writes to standard error.
func output(c *exec.Cmd) (string, error) {
	out, err := c.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", fmt.Errorf("run %q: %w\n%s", c, err, bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return "", fmt.Errorf("run %q: %w", c, err)
	}
	return strings.TrimSpace(string(out)), nil
}
