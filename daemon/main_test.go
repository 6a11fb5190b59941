// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestFlagsAreJudgedTogether(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want []string // each in stderr
	}{
		{
			"controller without source",
			[]string{"controller"},
			[]string{"find the API server", "name a file with --kubeconfig", "manifests with --manifests"},
		},
		{
			"two sources",
			[]string{"controller", "--manifests=x", "--kubeconfig=y"},
			[]string{"--manifests and --kubeconfig exclude each other"},
		},
		{"no such kubeconfig", []string{"controller", "--kubeconfig=/nonexistent"}, []string{`--kubeconfig "/nonexistent"`}},
		{
			"several",
			[]string{
				"agent", "--manifests", "x", "--attach", "xdp", "--log-level=loud", "--log-format=xml", "--bpffs=pins",
				"--node-name=", "--metrics-address=9406", "--network-annotation=",
			},
			[]string{
				`--attach "xdp": want auto, tcx or clsact`, `--log-level "loud"`, `--log-format "xml"`, `--bpffs "pins"`,
				"--node-name is empty", `--metrics-address "9406"`, "--network-annotation is empty",
			},
		},
		{"a flag of the other command", []string{"controller", "--attach=tcx"}, []string{"unknown flag: --attach"}},
		{"an argument", []string{"agent", "now"}, []string{`unknown command "now"`}},
		{"nowhere to install", []string{"install-plugin"}, []string{"--to", "--containerd-config"}},
		{
			"two places to install",
			[]string{"install-plugin", "--to=/a", "--containerd-config=/b"},
			[]string{"--to", "--containerd-config"},
		},
		{"a directory that is not there", []string{"controller", "--manifests=/nonexistent"}, []string{`"/nonexistent"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			if code := run(tt.args, &stdout, &stderr); code != 1 {
				t.Errorf("exit code %d", code)
			}
			for _, want := range tt.want {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("stderr %q does not hold %q", stderr.String(), want)
				}
			}
		})
	}
}

func TestNodeNameComesFromTheEnvironmentFirst(t *testing.T) {
	t.Setenv("NODE_NAME", "worker-7")
	if got := defaultNodeName(); got != "worker-7" {
		t.Errorf("got %q", got)
	}
	t.Setenv("NODE_NAME", "")
	if got := defaultNodeName(); got == "" {
		t.Error("the host's name is not used")
	}
}

func TestVersionAndHelpGoToStdout(t *testing.T) {
	for args, want := range map[string]string{
		"version":           "unknown\n",
		"agent --help":      "--bpffs",
		"controller --help": "--load-balancer-class",
	} {
		var stdout, stderr strings.Builder
		if code := run(strings.Fields(args), &stdout, &stderr); code != 0 || stderr.String() != "" {
			t.Errorf("%s: exit code %d, stderr %q", args, code, stderr.String())
		}
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("%s: stdout %q does not hold %q", args, stdout.String(), want)
		}
	}
}

func TestThePluginIsInstalledWhereContainerdLooks(t *testing.T) {
	dir := t.TempDir()
	plugin, config := filepath.Join(dir, "plugin"), filepath.Join(dir, "config.toml")
	for path, content := range map[string]string{
		plugin: "content", config: fmt.Sprintf("[plugins.cri.cni]\nbin_dir = %q\n", dir),
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"installed ", "is already installed: "} {
		var stdout, stderr strings.Builder
		code := run([]string{"install-plugin", "--plugin", plugin, "--containerd-config", config}, &stdout, &stderr)
		if want += filepath.Join(dir, "sluice") + "\n"; code != 0 || stdout.String() != want {
			t.Errorf("exit code %d, stdout %q, stderr %q; want %q", code, stdout.String(), stderr.String(), want)
		}
	}
	if content, err := os.ReadFile(filepath.Join(dir, "sluice")); err != nil || string(content) != "content" {
		t.Errorf("installed %q, %v", content, err)
	}
}

// What deploy/ starts is what there is: with --help flags are read, and nothing runs.
func TestTheFlagsOfTheManifestsExist(t *testing.T) {
	text, err := os.ReadFile("../deploy/sluice.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		var object struct {
			Spec struct {
				Template struct {
					Spec struct{ InitContainers, Containers []struct{ Args []string } }
				}
			}
		}
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		pod := object.Spec.Template.Spec
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			found++
			var stdout, stderr strings.Builder
			if code := run(append(c.Args, "--help"), &stdout, &stderr); code != 0 {
				t.Errorf("sluiced %s: %s", strings.Join(c.Args, " "), stderr.String())
			}
			if !strings.Contains(stdout.String(), "sluiced "+c.Args[0]) {
				t.Errorf("%q is no subcommand:\n%s", c.Args[0], stdout.String())
			}
		}
	}
	if found != 3 {
		t.Errorf("%d containers, want 3", found)
	}
}
