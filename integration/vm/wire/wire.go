// SPDX-License-Identifier: Apache-2.0

// Package wire owns what the two sides of the vm lane say to each other: the plan that the initramfs carries into the
// machine, and the messages that come out of it. It must not act.
package wire

// PlanFile is where the guest finds its Plan, as JSON.
const PlanFile = "/plan.json"

// Plan is all that a machine does before it powers off.
type Plan struct {
	Modules []string // files of kernel modules, each after those that it needs
	Suites  []Suite
}

// Suite is one test binary's run.
type Suite struct {
	Command []string // a file in the guest, and its arguments
	Dir     string   // where it runs
	Env     []string // NAME=value, besides PATH, HOME and TMPDIR
	Fetch   []string // files to send to the host afterwards
}

// Message is one line of JSON from the guest. Exactly one of its parts is set. Output, Exit and File belong to a Suite.
type Message struct {
	Kernel string `json:",omitempty"` // the first message: the release that runs
	Fault  string `json:",omitempty"` // the guest's own work failed: why
	Suite  int    `json:",omitempty"` // index in the Plan
	Output []byte `json:",omitempty"` // of the test binary, both streams: may be cut within a character
	Exit   *int   `json:",omitempty"` // its status, or 128 and the signal: the suite's last message
	File   *File  `json:",omitempty"` // one of Fetch
	End    bool   `json:",omitempty"` // the last message
}

// File is a file of the guest.
type File struct {
	Path string
	Data []byte
}
