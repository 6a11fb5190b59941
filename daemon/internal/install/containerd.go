// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"
)

// containerdDefault is where containerd looks if its configuration does not say (its internal/cri/config).
const containerdDefault = "/opt/cni/bin"

// containerd is what its configuration says of CNI. The section is named by the file's version: 1 (or none), 2 since
// containerd 1.3, 3 since 2.0.
type containerd struct {
	Version int      `toml:"version"`
	Imports []string `toml:"imports"`
	Plugins struct {
		V1 cri `toml:"cri"`
		V2 cri `toml:"io.containerd.grpc.v1.cri"`
		V3 cri `toml:"io.containerd.cri.v1.runtime"`
	} `toml:"plugins"`
}

type cri struct {
	CNI struct {
		Dir  string   `toml:"bin_dir"`
		Dirs []string `toml:"bin_dirs"` // instead of bin_dir, since containerd 2.1
	} `toml:"cni"`
}

// dir gives the directory that the file names, or "".
func (c *containerd) dir() (string, error) {
	var section cri
	switch c.Version {
	case 0, 1:
		section = c.Plugins.V1
	case 2:
		section = c.Plugins.V2
	case 3:
		section = c.Plugins.V3
	default:
		return "", fmt.Errorf("version %d is not known here, only 1 to 3: name the CNI directory with --to", c.Version)
	}
	if len(section.CNI.Dirs) > 0 {
		return section.CNI.Dirs[0], nil
	}
	return section.CNI.Dir, nil
}

// ContainerdDir reads a configuration file of containerd, and gives the directory in which containerd looks for CNI plugins
// first. Files that it imports are read too, if they are there; the last that says something counts.
func ContainerdDir(path string) (string, error) {
	dir := containerdDefault
	seen := map[string]bool{}
	for pending := []string{path}; len(pending) > 0; {
		path := pending[0]
		pending = pending[1:]
		if seen[path] {
			continue
		}
		seen[path] = true
		config, err := readContainerd(path)
		if err != nil {
			return "", err
		}
		said, err := config.dir()
		if err != nil {
			return "", fmt.Errorf("containerd's configuration %q: %w", path, err)
		}
		if said != "" {
			dir = said
		}
		imports, err := imported(path, config.Imports)
		if err != nil {
			return "", err
		}
		pending = append(pending, imports...)
	}
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("containerd's configuration %q: the CNI directory %q is no absolute path: "+
			"name the one that is meant with --to", path, dir)
	}
	return dir, nil
}

func readContainerd(path string) (*containerd, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read containerd's configuration: %w", err)
	}
	var config containerd
	if err := toml.Unmarshal(content, &config); err != nil {
		return nil, fmt.Errorf("containerd's configuration %q: %w", path, err)
	}
	return &config, nil
}

// imported gives the files that a configuration imports: names or patterns, relative to it. containerd leaves out patterns
// that match nothing; a name must be there.
func imported(path string, imports []string) ([]string, error) {
	var out []string
	for _, name := range imports {
		pattern := name
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(path), pattern)
		}
		matches, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("containerd's configuration %q: imports %q: %w", path, name, err)
		}
		if len(matches) == 0 && !isPattern(pattern) {
			matches = []string{pattern} // reading it tells why
		}
		out = append(out, matches...)
	}
	return out, nil
}

func isPattern(path string) bool {
	for _, c := range path {
		switch c {
		case '*', '?', '[', '\\':
			return true
		}
	}
	return false
}
