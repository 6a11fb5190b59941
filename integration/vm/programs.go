// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os/exec"
	"strings"
)

// addProgram adds a program of this machine with the libraries that it is linked with, each where it is here. Both must
// be for the guest's processor.
func addProgram(a *archive, name string) error {
	file, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("find a program for the guest: %w", err)
	}
	a.copy(file, file)
	out, err := exec.Command("ldd", file).CombinedOutput()
	if err != nil {
		if strings.Contains(string(out), "not a dynamic executable") {
			return nil
		}
		return fmt.Errorf("find the libraries of %s: %w: %s", file, err, out)
	}
	for _, library := range libraries(string(out)) {
		a.copy(library, library)
	}
	return nil
}

// libraries reads what ldd prints: "name => path (address)", or "path (address)" for the loader.
func libraries(ldd string) []string {
	var out []string
	for line := range strings.Lines(ldd) {
		for word := range strings.FieldsSeq(line) {
			if strings.HasPrefix(word, "/") {
				out = append(out, word)
			}
		}
	}
	return out
}
