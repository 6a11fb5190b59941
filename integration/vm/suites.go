// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/sluice-lb/sluice/integration/cluster"
	"github.com/sluice-lb/sluice/integration/vm/wire"
)

const modulePath = "github.com/sluice-lb/sluice"

// Where things are in the guest. Tests find the files of the tree as they do on a developer's machine.
const (
	guestSource   = "/src"
	guestTests    = "/tests"
	guestPrograms = "/programs"
	guestModules  = "/modules"
)

// requireEnv is testkit's: what a machine is known to have, so that tests do not skip for it.
const requireEnv = "SLUICE_TEST_REQUIRE"

// verifierTable is what the verifier made of the programs on each kernel: a test in bpf compares, or updates it.
const verifierTable = "bpf/testdata/verifier.txt"

// suite is a package whose tests run in the machines.
type suite struct {
	pkg   string
	tests func(kernel) string // gives -test.run; nil: all of them
	skip  string              // -test.skip
	files []string            // of the tree, that the tests read
}

// suites are what runs on every kernel, in this order.
var suites = []suite{
	{pkg: "internal/testkit"},
	// All paths and random sequences prove the programs, which are the same everywhere: emulated, they would take minutes.
	{
		pkg: "bpf", tests: bpfTests, files: []string{verifierTable},
		skip: "^(Fuzz.*|TestEveryPathOfThePrograms|TestProgramsAgreeWithTheModelOn.*)$",
	},
	{pkg: "daemon/internal/dataplane", tests: dataplaneTests},
	{pkg: "daemon/internal/links", tests: linksTests},
	{
		pkg: "integration", tests: labTests,
		files: []string{"netconf-examples/nad-macvlan1-dual-stack.yaml", "netconf-examples/node-facts.yaml"},
	},
}

// bpfTests are the verifier's alone where no test can run a program, before 5.17 (testkit.TestRun), and on current kernels:
// there the packets of the lab prove the programs.
func bpfTests(k kernel) string {
	if k.atLeast(5, 17) && !k.isCurrent() {
		return ""
	}
	return "^(TestVerifierWorksAsMuchAsRecorded|TestProgramsFitTheVerifierOfOldKernels)$"
}

// dataplaneTests are none on current kernels.
func dataplaneTests(k kernel) string {
	if k.isCurrent() {
		return "^$"
	}
	return ""
}

// linksTests are those of a bond, which has what no card here has.
func linksTests(kernel) string {
	return "^(TestLROIsToldOfADeviceThatHasIt|TestOffloadsAreReadAgainWhenTheyChange)$"
}

// labTests are what runs in a lab: one client of each kind, because emulated, a client takes seconds, and the same for
// ipvlan. Current kernels show the other modes of ipvlan, and masters that are no cards.
func labTests(k kernel) string {
	const (
		clients = "^TestEveryClientIsAnsweredByEveryPod$/^(tcx|clsact)$/^IPv[46]$/" +
			"^(external_client|remote_client|host_of_node1|pod_on_node2|backend_web3)$"
		cells = "^(external_client|local_client_pod|the_node|same_pod|remote_backend)$"
	)
	if k.isCurrent() {
		return clients + "|^TestMatrix$/^ipvlan/" + cells + "|^TestServiceOnEveryKindOfMaster$"
	}
	return clients + "|^TestMatrix$/^ipvlan_l2$/" + cells
}

// labPrograms are what integration/lab calls.
var labPrograms = []string{"sh", "cat", "ip", "mkdir", "mount", "rm", "bridge", "ss", "ethtool", "tcpdump"}

// labUsers is the guest's /etc/passwd: tcpdump becomes another user as soon as it may.
const labUsers = "root:x:0:0::/:/bin/sh\ntcpdump:x:1:1::/:/bin/false\n"

// kernelModules are what the tests need of a kernel besides what they need in turn. crc32c_generic is asked for by an
// alias alone, by whatever uses libcrc32c.
var kernelModules = []string{
	"crc32c_generic", "veth", "bridge", "macvlan", "ipvlan", "8021q", "bonding", "dummy", "sctp",
	"sch_ingress", "cls_bpf", "cls_u32", "act_gact",
}

// features are what the tests must find on a kernel: see testkit.
func features(k kernel) string {
	words := []string{"root", "bpf", "ipvlan", "vlan", "bond"}
	if k.atLeast(5, 17) {
		words = append(words, "testrun")
	}
	if k.atLeast(6, 6) {
		words = append(words, "tcx")
	}
	return strings.Join(words, ",")
}

// run gives the suite's -test.run on a kernel.
func (s suite) run(k kernel) string {
	if s.tests == nil {
		return ""
	}
	return s.tests(k)
}

func (s suite) binary() string { return path.Join(guestTests, strings.ReplaceAll(s.pkg, "/", "-")) }

// plan says what the guest is to do.
func (o options) plan(k kernel, mods []module) wire.Plan {
	var p wire.Plan
	for _, m := range mods {
		p.Modules = append(p.Modules, path.Join(guestModules, m.name))
	}
	for _, s := range suites {
		run, skip := s.run(k), s.skip
		if o.run != "" {
			run, skip = o.run, ""
		}
		w := wire.Suite{
			Command: []string{
				s.binary(), "-test.v=test2json", "-test.run=" + run, "-test.skip=" + skip, "-test.timeout=" + o.timeout.String(),
			},
			Dir: path.Join(guestSource, s.pkg),
			Env: []string{requireEnv + "=" + features(k), cluster.ProgramsEnv + "=" + guestPrograms},
		}
		if o.update && slices.Contains(s.files, verifierTable) {
			w.Command = append(w.Command, "-update")
			w.Fetch = []string{path.Join(guestSource, verifierTable)}
		}
		p.Suites = append(p.Suites, w)
	}
	return p
}

// kernel is a directory with vmlinuz and modules/, named after its version.
type kernel struct {
	dir          string
	major, minor int
}

func parseKernel(dir string) (kernel, error) {
	k := kernel{dir: dir}
	if _, err := fmt.Sscanf(path.Base(dir), "%d.%d", &k.major, &k.minor); err != nil {
		return kernel{}, fmt.Errorf("kernel %s: name the directory after its version, such as 6.1: %w", dir, err)
	}
	return k, nil
}

func (k kernel) atLeast(major, minor int) bool {
	return k.major > major || k.major == major && k.minor >= minor
}

// isCurrent tells of kernels with tcx that they are like those that people develop on, where all tests run all day.
func (k kernel) isCurrent() bool { return k.atLeast(6, 6) }

// String is the kernel's version.
func (k kernel) String() string { return fmt.Sprintf("%d.%d", k.major, k.minor) }
