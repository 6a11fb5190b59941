// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// multusModule is what integration/multus/go.mod pins. It is a module of its own, because Multus' dependencies are not
// ours.
const multusModule = "gopkg.in/k8snetworkplumbingwg/multus-cni.v4"

// Multus gives the directory with the real Multus (thin). If it is missing it is built into the cache, which takes a few
// minutes. The caller's directory must be in the project's module.
func Multus() (string, error) {
	root, err := goOutput("", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return "", err
	}
	module := filepath.Join(root, "integration", "multus")
	version, err := goOutput(module, "list", "-m", "-f", "{{.Version}}", multusModule)
	if err != nil {
		return "", err
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "multus-"+version)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make the cache: %w", err)
	}
	temp, err := os.MkdirTemp(cache, "multus-")
	if err != nil {
		return "", fmt.Errorf("build Multus: %w", err)
	}
	defer os.RemoveAll(temp)
	_, err = goOutput(module, "build", "-trimpath", "-ldflags", "-s -w", "-o", temp+"/", "tool")
	if err != nil {
		return "", err
	}
	// Whole or not at all: another test may have built it meanwhile, and may be running it.
	if err := os.Rename(temp, dir); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("build Multus: %w", err)
	}
	return dir, nil
}

// cacheDir is where hack/lib.sh keeps what takes long to get, too.
func cacheDir() (string, error) {
	if dir := os.Getenv("SLUICE_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache: %w", err)
	}
	return filepath.Join(dir, "sluice"), nil
}

// goOutput runs the go command in a directory and gives what it prints.
func goOutput(dir string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", fmt.Errorf("run %q: %w\n%s", cmd, err, exit.Stderr)
	}
	if err != nil {
		return "", fmt.Errorf("run %q: %w", cmd, err)
	}
	return strings.TrimSpace(string(out)), nil
}
