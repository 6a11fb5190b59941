// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"fmt"
	"os/exec"
	"path"
	"path/filepath"
)

// Build builds main packages into a directory, each under the last element of its path: static and without the race
// detector, as users get them.
func Build(dir string, packages ...string) error {
	for _, pkg := range packages {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, path.Base(pkg)), pkg)
		cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	return nil
}
