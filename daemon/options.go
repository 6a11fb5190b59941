// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/sluice-lb/sluice/daemon/internal/dataplane"
	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// options are the flags of all subcommands.
type options struct {
	manifests          string
	kubeconfig         string
	classes            []string
	networkAnnotations []string
	logFormat          string
	logLevel           string
	metricsAddress     string

	// Of the agent alone.
	agent    bool
	nodeName string
	bpffs    string
	attach   string

	noBackends string
}

// flagSet is what options need of pflag.
type flagSet interface {
	StringVar(p *string, name, value, usage string)
	StringSliceVar(p *[]string, name string, value []string, usage string)
}

func (o *options) addFlags(flags flagSet) {
	flags.StringVar(&o.manifests, "manifests", "",
		"directory of YAML files with Services, NetworkAttachmentDefinitions, Pods and node facts, followed as it changes")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "",
		"file that says how to reach the API server; by default, without --manifests, what Kubernetes gives every pod")
	flags.StringSliceVar(&o.classes, "load-balancer-class", []string{kube.Class},
		"loadBalancerClass to serve; may be given several times")
	flags.StringSliceVar(&o.networkAnnotations, "network-annotation", []string{kube.AnnotationNetworks},
		"annotation that lists a Service's networks; may be given several times")
	flags.StringVar(&o.logFormat, "log-format", "text", "text or json")
	flags.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&o.metricsAddress, "metrics-address", "",
		"TCP address that serves /metrics, /healthz and /readyz, such as :9406; empty for none")
}

func addAgentFlags(o *options, flags flagSet) {
	o.agent = true
	flags.StringVar(&o.nodeName, "node-name", defaultNodeName(),
		"this node's name in Kubernetes; by default $NODE_NAME, else the host's name")
	flags.StringVar(&o.bpffs, "bpffs", "/sys/fs/bpf/sluice",
		"directory on a BPF file system where programs, maps and links are pinned")
	flags.StringVar(&o.attach, "attach", string(dataplane.AttachAuto),
		"how programs are attached: tcx (kernel 6.6 or later), clsact, or auto for the better that this kernel has")
	flags.StringVar(&o.noBackends, "no-backends", string(dataplane.NoBackendsReject),
		"what clients of a Service without backends get: reject (TCP reset, ICMP port unreachable) or drop")
}

func defaultNodeName() string {
	if name := os.Getenv("NODE_NAME"); name != "" {
		return name
	}
	name, err := os.Hostname()
	if err != nil {
		return "" // which validate refuses
	}
	return name
}

// validate reports everything that is wrong with the flags.
func (o *options) validate() error {
	var errs []error
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.manifests != "" && o.kubeconfig != "" {
		refuse("--manifests and --kubeconfig exclude each other: objects come from a directory or from an API server")
	}
	for name, list := range map[string][]string{
		"--load-balancer-class": o.classes, "--network-annotation": o.networkAnnotations,
	} {
		if len(list) == 0 || slices.Contains(list, "") {
			refuse("%s is empty: leave it out for the default", name)
		}
	}
	if !slices.Contains([]string{"text", "json"}, o.logFormat) {
		refuse("--log-format %q: want text or json", o.logFormat)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		refuse("--log-level %q: want debug, info, warn or error", o.logLevel)
	}
	if o.metricsAddress != "" {
		if _, _, err := net.SplitHostPort(o.metricsAddress); err != nil {
			refuse("--metrics-address %q: want host:port or :port", o.metricsAddress)
		}
	}
	if o.agent {
		errs = append(errs, o.validateAgent()...)
	}
	return errors.Join(errs...)
}

func (o *options) validateAgent() []error {
	var errs []error
	if o.nodeName == "" {
		errs = append(errs, errors.New("--node-name is empty: give the name that Kubernetes knows this node by"))
	}
	if !filepath.IsAbs(o.bpffs) {
		errs = append(errs, fmt.Errorf("--bpffs %q: want an absolute path on a BPF file system", o.bpffs))
	}
	modes := []dataplane.AttachMode{dataplane.AttachAuto, dataplane.AttachTCX, dataplane.AttachClsact}
	if !slices.Contains(modes, dataplane.AttachMode(o.attach)) {
		errs = append(errs, fmt.Errorf("--attach %q: want auto, tcx or clsact", o.attach))
	}
	answers := []dataplane.NoBackends{dataplane.NoBackendsReject, dataplane.NoBackendsDrop}
	if !slices.Contains(answers, dataplane.NoBackends(o.noBackends)) {
		errs = append(errs, fmt.Errorf("--no-backends %q: want reject or drop", o.noBackends))
	}
	return errs
}

// objects tells people where objects come from.
func (o *options) objects() string {
	switch {
	case o.manifests != "":
		return "directory " + o.manifests
	case o.kubeconfig != "":
		return "API server of " + o.kubeconfig
	}
	return "API server of this cluster"
}

// kube gives what package kube needs to know of the flags.
func (o *options) kube() kube.Options {
	return kube.Options{Classes: o.classes, NetworkAnnotations: o.networkAnnotations}
}

// newLogger gives the logger of valid options.
func newLogger(o options, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(o.logLevel)) // validate has tried
	opts := &slog.HandlerOptions{Level: level}
	if o.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
