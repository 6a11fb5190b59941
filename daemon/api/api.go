// SPDX-License-Identifier: Apache-2.0

// Package api is the contract between the CNI plugin, the node's agent and the command line: the types that cross the
// agent's unix socket, the paths that they meet at, and a client. It uses the standard library only, because the plugin
// starts once per pod interface and its start-up is on every pod's critical path.
//
// The socket speaks HTTP with JSON bodies. Every answer other than 2xx carries an Error. Paths:
//
//	POST   /v1/attachments                       an Attachment; answers when the datapath serves it
//	GET    /v1/attachments/{containerID}/{ifname} the Attachment as the agent holds it, or 404
//	DELETE /v1/attachments/{containerID}/{ifname} forgets it; deleting what is unknown succeeds
//	GET    /v1/services                          []Service, the balancing as this node does it
//	GET    /v1/issues                            []Issue, what is wrong now
//	GET    /healthz, /readyz                     200 or 503 with the reason as text
//	GET    /debug/state                          the compiled State, as JSON
//	GET    /metrics                              Prometheus text
package api

import (
	"fmt"
	"net/netip"

	"github.com/sluice-lb/sluice/internal/ether"
)

// Where plugin, agent and command line meet on a node. The directory is 0700 and the socket 0600: root only.
const (
	RunDir   = "/run/sluice"
	SpoolDir = RunDir + "/attachments"
	Socket   = RunDir + "/agent.sock"
)

// Pod names the pod that an attachment belongs to, as the runtime gave it in CNI_ARGS. UID may be empty (runtimes other
// than the kubelet), and for a static pod it differs from the API's UID, so a join falls back to Namespace and Name.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// String gives namespace/name.
func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// Attachment is one pod interface on one network. (ContainerID, IfName) is its identity (CNI SPEC, "Attachment"). It is
// what the plugin writes to the spool directory, one JSON file each, and sends to the agent.
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
	Network     string `json:"network"` // the CNI configuration's name; not the NAD's, which a plugin cannot know
	Pod         Pod    `json:"pod"`

	Netns      string `json:"netns"`      // path as the runtime gave it, in the node's mount namespace
	NetnsInode uint64 `json:"netnsInode"` // inode of the namespace: tells it from a later one at the same path

	Kind        string         `json:"kind"`               // link kind in the kernel: "macvlan" or "ipvlan"
	Mode        string         `json:"mode"`               // "bridge", "private", "vepa", "passthru"; "l2", "l3", "l3s"
	MAC         ether.MAC      `json:"mac"`                // of the pod's interface
	Addresses   []netip.Prefix `json:"addresses"`          // of the pod's interface, with the subnet's length
	Gateways    []netip.Addr   `json:"gateways,omitempty"` // of the previous plugin's result, if any
	Master      string         `json:"master"`             // name of the parent interface at ADD; it may change later
	MasterIndex int            `json:"masterIndex"`        // ifindex of the parent in the node's network namespace
}

// Key is an attachment's identity.
type Key struct {
	ContainerID string
	IfName      string
}

// String gives containerID/ifname.
func (k Key) String() string { return k.ContainerID + "/" + k.IfName }

// Key gives the attachment's identity.
func (a Attachment) Key() Key { return Key{ContainerID: a.ContainerID, IfName: a.IfName} }

// Error is the body of every answer that is not 2xx. Code is a CNI error code (CNI SPEC, "Error": 7 invalid network
// config, 11 try again later, 999 internal), so that the plugin can pass it on as it is.
type Error struct {
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details,omitempty"`
}

// Error gives the message with its details.
func (e *Error) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return fmt.Sprintf("%s: %s", e.Msg, e.Details)
}
