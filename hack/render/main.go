// SPDX-License-Identifier: Apache-2.0

// Render writes deploy/sluice.yaml, which people apply without kustomize, from deploy/overlays/plain. It is a module of its
// own, so that kustomize and Helm are nobody else's dependencies; its tests hold the chart and the overlays to the base.
//
//	go run .           writes the file
//	go run . -check    fails if the file is not what would be written
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// header tells readers of the file where it comes from.
const header = `# SPDX-License-Identifier: Apache-2.0
# Sluice for a cluster: kubectl apply -f sluice.yaml. Rendered from deploy/overlays/plain by hack/render.sh, where comments
# say what things are for: change it there.
`

func main() {
	check := flag.Bool("check", false, "compare instead of writing")
	deploy := flag.String("deploy", "../../deploy", "the directory deploy of the tree")
	flag.Parse()
	if err := run(*deploy, *check); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

func run(deploy string, check bool) error {
	objects, err := build(filepath.Join(deploy, "overlays", "plain"))
	if err != nil {
		return err
	}
	file, want := filepath.Join(deploy, "sluice.yaml"), append([]byte(header), objects...)
	if !check {
		return os.WriteFile(file, want, 0o644)
	}
	have, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, want) {
		return fmt.Errorf("%s is not what deploy/overlays/plain gives: run hack/render.sh, and commit what it writes", file)
	}
	return nil
}

// build does what `kubectl kustomize DIR` does.
func build(dir string) ([]byte, error) {
	options := krusty.MakeDefaultOptions()
	options.Reorder = krusty.ReorderOptionLegacy // namespaces first
	objects, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, fmt.Errorf("kustomize %s: %w", dir, err)
	}
	return objects.AsYaml()
}
