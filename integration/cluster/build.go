// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os/exec"
	"path/filepath"
)

// ProgramsEnv names the environment variable with a directory in which Build has been, for tests on a machine without Go.
const ProgramsEnv = "SLUICE_TEST_PROGRAMS"

// Build puts into a directory what a cluster needs: our programs, traffic, and the upstream plugins of the chain. The flags
// are for the daemon alone, such as -race. It must run inside the module.
func Build(dir string, daemonFlags ...string) error {
	const module, upstream = "github.com/sluice-lb/sluice/", "github.com/containernetworking/plugins/plugins/"
	for name, path := range map[string]string{
		"sluice":     module + "plugins/meta/sluice",
		"sluiced":    module + "daemon",
		"sluicectl":  module + "cmd/sluicectl",
		"traffic":    module + "integration/traffic",
		"macvlan":    upstream + "main/macvlan",
		"ipvlan":     upstream + "main/ipvlan",
		"host-local": upstream + "ipam/host-local",
	} {
		args := []string{"build", "-o", filepath.Join(dir, name)}
		if name == "sluiced" {
			args = append(args, daemonFlags...)
		}
		if out, err := exec.Command("go", append(args, path)...).CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}
