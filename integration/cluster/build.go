// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
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

// WithPrograms runs tests with a directory of programs: that which ProgramsEnv names, or else one that Build has just filled.
// The daemon has the race detector if this process has it. It gives the exit status of run, or 1.
func WithPrograms(run func(dir string) int) int {
	if dir := os.Getenv(ProgramsEnv); dir != "" {
		return run(dir)
	}
	dir, err := os.MkdirTemp("", "sluice-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	err = Build(dir, raceFlag())
	if err == nil {
		// A daemon with the race detector would sleep for a second before it ends.
		err = os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return run(dir)
}

// raceFlag gives the flag that makes a daemon look for data races, or not, as this process does.
func raceFlag() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "-race" {
				return "-race=" + setting.Value
			}
		}
	}
	return "-race=false"
}
