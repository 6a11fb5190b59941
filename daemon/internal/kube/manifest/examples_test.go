// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

const examples = "../../../../netconf-examples"

func TestExamplesLoadWithoutIssues(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(examples, "*.yaml"))
	if err != nil || len(paths) < 5 {
		t.Fatalf("found %d examples, err %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			objects, issues, refused := decode(path, data)
			if len(objects) == 0 || len(issues) > 0 || len(refused) > 0 {
				t.Fatalf("objects %d, issues %v, refused %v", len(objects), issues, refused)
			}
			f := &file{objects: objects}
			snapshot := merge(map[string]*file{path: f}).Snapshot(kube.Options{})
			if len(snapshot.Issues) > 0 {
				t.Errorf("issues: %v", snapshot.Issues)
			}
		})
	}
}
