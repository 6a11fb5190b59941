// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/internal/lock"
)

// Two of a kind would undo each other's work, so each takes a lock before it touches anything, and keeps it for life.
// They end with the process, also by kill -9.
const (
	agentLock = api.RunDir + "/agent.lock"
	// controllerLock is in the controller's part of the manifest directory. Readers skip names with a leading dot.
	controllerLock = "controller/.lock"
)

// lockNode makes this process the only agent that uses a run directory: its lock, its socket, and the pins of the same
// node. It makes the directory.
func lockNode(path, bpffs string) (*lock.Lock, error) {
	// Closed to others from the first moment: the socket will be in it.
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the agent's directory: %w", err)
	}
	l, err := lock.Take(path)
	var held *lock.HeldError
	if errors.As(err, &held) {
		return nil, fmt.Errorf("another agent runs on this node: %w; it serves %s, and two would take %s from each other: "+
			"stop it first%s, then start this one; nothing was changed", err, api.Socket, bpffs, killHint(held))
	}
	return l, err
}

// lockManifests makes this process the only controller of a manifest directory: a claim that one deletes could be the
// other's new one, and the address would be given twice.
func lockManifests(dir string) (*lock.Lock, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("open manifest directory %q: %w", dir, err)
	}
	path := filepath.Join(dir, controllerLock)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the controller's directory: %w", err)
	}
	l, err := lock.Take(path)
	var held *lock.HeldError
	if errors.As(err, &held) {
		return nil, fmt.Errorf("another controller writes to %s: %w; there must be one in all: stop either%s; "+
			"nothing was changed", filepath.Dir(path), err, killHint(held))
	}
	return l, err
}

func killHint(held *lock.HeldError) string {
	if held.PID == 0 {
		return ""
	}
	return fmt.Sprintf(" (`kill %d` if nothing supervises it)", held.PID)
}
