// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/vm/wire"
)

// build puts into a directory all that is ours in the guests: init, tests/ and programs/, without a library. The
// current directory must be the tree's top.
func build(dir string) error {
	for name, value := range map[string]string{"CGO_ENABLED": "0", "GOOS": "linux", "GOARCH": "amd64"} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	for _, sub := range []string{"tests", "programs"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	// Without symbols and debugging data, which tests do not need, half the octets have to go into the machine.
	const small = "-ldflags=-s -w"
	if err := goTool("build", small, "-o", filepath.Join(dir, "init"), "./integration/vm/guest"); err != nil {
		return err
	}
	for _, s := range suites {
		out := filepath.Join(dir, "tests", path.Base(s.binary()))
		if err := goTool("test", "-c", small, "-o", out, "./"+s.pkg); err != nil {
			return err
		}
	}
	return cluster.Build(filepath.Join(dir, "programs"))
}

func goTool(args ...string) error {
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("build for the machines: %w\n%s", err, out)
	}
	return nil
}

// writeInitramfs packs what build made, the kernel's modules and the plan.
func (o options) writeInitramfs(file, work string, k kernel, mods []module) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	a := newArchive(f)
	a.copy("/init", filepath.Join(work, "init"))
	for _, m := range mods {
		a.file(path.Join(guestModules, m.name), m.data)
	}
	for _, s := range suites {
		a.copy(s.binary(), filepath.Join(work, "tests", path.Base(s.binary())))
		a.dir(path.Join(guestSource, s.pkg))
		for _, name := range s.files {
			a.copy(path.Join(guestSource, name), name)
		}
	}
	if err := addLab(a, filepath.Join(work, "programs")); err != nil {
		return err
	}
	plan, err := json.Marshal(o.plan(k, mods))
	if err != nil {
		return err
	}
	a.file(wire.PlanFile, plan)
	return errors.Join(a.close(), f.Close())
}

func addLab(a *archive, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		a.copy(path.Join(guestPrograms, e.Name()), filepath.Join(dir, e.Name()))
	}
	a.file("/etc/passwd", []byte(labUsers))
	for _, name := range labPrograms {
		if err := addProgram(a, name); err != nil {
			return err
		}
	}
	return nil
}
