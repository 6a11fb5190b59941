// SPDX-License-Identifier: Apache-2.0

package install_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/daemon/internal/install"
)

func TestTheDirectoryIsThatOfContainerd(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string // the first to read is config.toml
		want  string
	}{
		{"nothing said", map[string]string{"config.toml": "version = 3\n"}, "/opt/cni/bin"},
		{"k3s, version 3", map[string]string{"config.toml": `
version = 3
imports = ["config-v3.toml.d/*.toml"]
root = "/var/lib/rancher/k3s/agent/containerd"
[grpc]
  address = "/run/k3s/containerd/containerd.sock"
[plugins.'io.containerd.internal.v1.opt']
  path = "/var/lib/rancher/k3s/agent/containerd"
[plugins.'io.containerd.cri.v1.runtime']
  enable_selinux = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dir = "/var/lib/rancher/k3s/data/cni"
  conf_dir = "/var/lib/rancher/k3s/agent/etc/cni/net.d"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
`}, "/var/lib/rancher/k3s/data/cni"},
		{"k3s, version 2", map[string]string{"config.toml": `
version = 2
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/var/lib/rancher/k3s/data/current/bin"
  conf_dir = "/var/lib/rancher/k3s/agent/etc/cni/net.d"
`}, "/var/lib/rancher/k3s/data/current/bin"},
		{"several directories, since containerd 2.1", map[string]string{"config.toml": `
version = 3
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
`}, "/usr/lib/cni"},
		{"no version is version 1", map[string]string{"config.toml": `
[plugins.cri.cni]
  bin_dir = "/usr/libexec/cni"
`}, "/usr/libexec/cni"},
		{"the section of another version", map[string]string{"config.toml": `
version = 3
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/libexec/cni"
`}, "/opt/cni/bin"},
		{"an import says it, the last one counts", map[string]string{
			"config.toml": "version = 2\nimports = [\"conf.d/*.toml\", \"nothing-here/*.toml\"]\n" +
				"[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/a\"\n",
			"conf.d/10.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/b\"\n",
			"conf.d/20.toml": "version = 3\nimports = [\"../last.toml\"]\n",
			"last.toml":      "version = 3\nimports = [\"config.toml\"]\n[plugins.\"io.containerd.cri.v1.runtime\".cni]\nbin_dir = \"/c\"\n",
		}, "/c"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range tt.files {
				write(t, filepath.Join(dir, name), content, 0o600)
			}
			got, err := install.ContainerdDir(filepath.Join(dir, "config.toml"))
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestAConfigurationThatCannotBeUsedIsNamed(t *testing.T) {
	for content, want := range map[string]string{
		"version = 9":                      "version 9 is not known here",
		"version = ":                       "config.toml",
		"imports = [\"none.toml\"]":        "none.toml: no such file",
		"imports = [\"[\"]":                `imports "["`,
		"[plugins.cri.cni]\nbin_dir=\"x\"": `the CNI directory "x" is no absolute path`,
	} {
		path := filepath.Join(t.TempDir(), "config.toml")
		write(t, path, content, 0o600)
		if dir, err := install.ContainerdDir(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v; want %q", content, dir, err, want)
		}
	}
	if _, err := install.ContainerdDir("/nonexistent/config.toml"); err == nil {
		t.Error("a file that is not there is read")
	}
}
