// SPDX-License-Identifier: Apache-2.0

// Command controlplane measures controller and agent with many Services on a real API server, and compares with the bars. As
// root, in the tree:
//
//	go run ./integration/bench/controlplane -services 5000 -endpoints 10 -json
//
// It prints progress on standard error, and exits with 1 when a bar is missed. etcd, kube-apiserver, the agent of one node and
// the controller run as in a cluster. Of kube-controller-manager only the controller of ServiceAccounts runs: slices of eth0
// for so many Services would cost time, and nobody here reads them. The pods are objects with a network-status, on nodes that
// are objects too; one pod of one more Service is real, and changes are measured on its traffic.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/kubeapi"
	"github.com/sluice-lb/sluice/integration/lab"
)

// limit is for what takes seconds or minutes, on a machine that is busy with other things.
const limit = 15 * time.Minute

// bench is what the command line asks for, and what runs.
type bench struct {
	services, endpoints, changes int
	json                         bool

	*cluster.Cluster

	api        *kubeapi.Plane
	controller *lab.Process
	pod        *lab.Pod // of the Service that is asked
	audit      string   // path of the API server's log of what the controller writes
	figures    figures
}

func main() { os.Exit(run()) }

func run() int {
	b := &bench{}
	flag.IntVar(&b.services, "services", 5000, "number of Services, at most 60000")
	flag.IntVar(&b.endpoints, "endpoints", 10, "number of pods of each Service")
	flag.IntVar(&b.changes, "changes", 50, "number of changes of an endpoint to measure, each way")
	flag.BoolVar(&b.json, "json", false, "print one JSON object instead of lines")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.services < 1 || b.services > maxServices || b.endpoints < 1 || b.services*b.endpoints > maxPods || b.changes < 1 {
		return fmt.Errorf("-services %d -endpoints %d -changes %d: want 1 to %d Services, at most %d endpoints in all, and a change",
			b.services, b.endpoints, b.changes, maxServices, maxPods)
	}
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := b.start(ctx, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"create the objects", b.fill},
		{"controller, first run", b.first},
		{"agent, cold start", b.cold},
		{"changes of a pod", b.podChanges},
		{"writes of an idle controller", b.idle},
		{"changes of a slice", b.sliceChanges},
		{"memory", b.memory},
	} {
		began := time.Now()
		fmt.Fprintf(os.Stderr, "%s ...", step.what)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w\n%s\n%s", step.what, err, tail(b.Logs()), b.api.Logs())
		}
		fmt.Fprintf(os.Stderr, " %.1f s\n", time.Since(began).Seconds())
	}
	return b.figures.print(b.json)
}

// tail gives the end of a long text.
func tail(text string) string { return text[max(0, len(text)-16<<10):] }

// auditPolicy has the API server log what the controller writes, and nothing else.
const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ["system:serviceaccount:sluice-system:controller"]
  verbs: [create, update, patch, delete, deletecollection]
- level: None
`

// account is the controller's, so that its writes are known by their user.
const account = `
apiVersion: v1
kind: Namespace
metadata: {name: sluice-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: controller, namespace: sluice-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: controller}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: controller, namespace: sluice-system}]
`

// start builds the programs in a directory and runs the cluster, with a pod to ask. Then it stops controller and agent.
func (b *bench) start(ctx context.Context, dir string) error {
	if err := cluster.Build(dir, "-trimpath", "-ldflags=-s -w"); err != nil {
		return err
	}
	policy, manifest := filepath.Join(dir, "audit.yaml"), filepath.Join(dir, "account.yaml")
	b.audit = filepath.Join(dir, "audit.log")
	if err := errors.Join(os.WriteFile(policy, []byte(auditPolicy), 0o644), os.WriteFile(manifest, []byte(account), 0o644)); err != nil {
		return err
	}
	b.api = &kubeapi.Plane{Controller: "sluice-system/controller", Options: kubeapi.Options{
		APIServerFlags: []string{"--audit-policy-file=" + policy, "--audit-log-path=" + b.audit},
		Controllers:    []string{"serviceaccount-controller"},
	}}
	var err error
	b.Cluster, err = cluster.New(ctx, cluster.Options{
		Options: lab.Options{Nodes: 1, Path: []string{dir}}, API: b.api, Manifests: []string{manifest},
	})
	if err != nil {
		return err
	}
	if err := b.addAsked(ctx); err != nil {
		return errors.Join(fmt.Errorf("%w\n%s", err, b.Logs()), b.Close())
	}
	return nil
}
