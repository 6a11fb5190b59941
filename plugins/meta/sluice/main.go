// SPDX-License-Identifier: Apache-2.0

// Package main is the CNI plugin "sluice", chained after macvlan or ipvlan. It owns the attachment's spool file and the reply
// routing inside the pod, and tells the agent. It must not change the CNI result, talk to the API server, or fail a
// DEL.
package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/sluice-lb/sluice/daemon/api"
)

// version is set by the linker (build_linux.sh).
var version = "unknown"

const (
	// addTime is how long ADD and CHECK may take in all: far below the two minutes that the kubelet gives a sandbox.
	addTime = 10 * time.Second
	// delTime is how long DEL waits for the agent. The spool file is gone by then, so the agent finds out anyway.
	delTime = 2 * time.Second
	// statusTime is how long STATUS waits for the agent. The kubelet asks for a node's status every few seconds.
	statusTime = 1500 * time.Millisecond
)

// plugin is one invocation's surroundings. Paths are compiled in, because DEL must find them without a configuration.
type plugin struct {
	spoolDir string
	socket   string
	log      *slog.Logger // to stderr: stdout is the CNI result
}

func main() { os.Exit(run()) }

func run() int {
	p := &plugin{
		spoolDir: api.SpoolDir,
		socket:   api.Socket,
		log:      slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	funcs := skel.CNIFuncs{
		Add: guard(p.add), Check: guard(p.check), Del: guard(p.del), GC: guard(p.gc), Status: guard(p.status),
	}
	err := skel.PluginMainFuncsWithError(funcs, cniversion.All, "CNI sluice plugin "+version)
	if err == nil {
		return 0
	}
	if os.Getenv("CNI_COMMAND") == "DEL" && err.Code != types.ErrInvalidEnvironmentVariables {
		return p.delAnyway(err)
	}
	if err := err.Print(); err != nil {
		p.log.Error("error is not printed", "err", err)
	}
	return 1
}

// delAnyway is DEL where skel refuses the input: a configuration that is damaged, of an unknown version or missing, or
// a network namespace path that has come to mean the host's. A failed DEL here would keep the plugins before us in the
// chain from ever running theirs.
func (p *plugin) delAnyway(refusal *types.Error) int {
	p.log.Warn("DEL goes on without its input", "err", refusal)
	_ = guard(p.del)(&skel.CmdArgs{
		ContainerID: os.Getenv("CNI_CONTAINERID"),
		Netns:       os.Getenv("CNI_NETNS"),
		IfName:      os.Getenv("CNI_IFNAME"),
	})
	return 0
}

// guard turns a panic into a CNI error, because a stack trace on stderr tells a pod's owner nothing.
func guard(command func(*skel.CmdArgs) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = newSubject(args).errorf(types.ErrInternal, "fault in the plugin, please report it: %v\n%s",
					v, debug.Stack())
			}
		}()
		return command(args)
	}
}

// subject is what an error is about.
type subject struct {
	pod  api.Pod
	name string // for messages
}

// k8sArgs are the pairs of CNI_ARGS that Kubernetes runtimes and Multus set. The last of several wins.
type k8sArgs struct {
	types.CommonArgs
	K8S_POD_NAMESPACE types.UnmarshallableString //nolint:revive // the names are the runtime's
	K8S_POD_NAME      types.UnmarshallableString //nolint:revive
	K8S_POD_UID       types.UnmarshallableString //nolint:revive
}

// newSubject names the pod's interface, or for GC and STATUS, which are about no pod, the network.
func newSubject(args *skel.CmdArgs) subject {
	if args.ContainerID == "" && args.IfName == "" {
		var conf types.PluginConf
		_ = json.Unmarshal(args.StdinData, &conf) // skel has read the name before
		return subject{name: "network " + conf.Name}
	}
	a := k8sArgs{CommonArgs: types.CommonArgs{IgnoreUnknown: true}}
	// What cannot be read here leaves the pod unnamed; an agent then joins by address and MAC.
	_ = types.LoadArgs(args.Args, &a)
	pod := api.Pod{Namespace: string(a.K8S_POD_NAMESPACE), Name: string(a.K8S_POD_NAME), UID: string(a.K8S_POD_UID)}
	name := "container " + args.ContainerID
	if pod.Name != "" {
		name = "pod " + pod.String()
	}
	return subject{pod: pod, name: name + ", interface " + args.IfName}
}

// errorf gives a CNI error that names its subject. Multus keeps only the text, so the remedy belongs into it.
func (s subject) errorf(code uint, format string, args ...any) *types.Error {
	return types.NewError(code, "sluice: "+s.name+": "+fmt.Sprintf(format, args...), "")
}

func keyOf(args *skel.CmdArgs) api.Key {
	return api.Key{ContainerID: args.ContainerID, IfName: args.IfName}
}
