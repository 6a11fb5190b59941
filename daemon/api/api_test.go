// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluice-lb/sluice/internal/ether"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func exampleAttachment() Attachment {
	return Attachment{
		ContainerID: "c0ffee", IfName: "net1", Network: "macvlan1",
		Pod:   Pod{Namespace: "default", Name: "nginx-0", UID: "11111111-2222-3333-4444-555555555555"},
		Netns: "/run/netns/cni-1", NetnsInode: 4026532500,
		Kind: "macvlan", Mode: "bridge", MAC: ether.MAC{0x02, 0, 0, 0, 0, 0x11},
		Addresses:   []netip.Prefix{netip.MustParsePrefix("192.168.20.20/24"), netip.MustParsePrefix("fd00:20::20/64")},
		Gateways:    []netip.Addr{netip.MustParseAddr("192.168.20.1")},
		Master:      "eth1",
		MasterIndex: 3,
	}
}

// TestWireForm holds the JSON that crosses the socket. Plugin, agent and command line of different versions meet there
// during an upgrade: a change of these files must stay readable by the other side.
func TestWireForm(t *testing.T) {
	counters := Counters{Connections: 3, Packets: 40, Bytes: 5000}
	tests := map[string]any{
		"attachment": exampleAttachment(),
		"attachment-minimal": Attachment{
			ContainerID: "c0ffee", IfName: "net1", Netns: "/proc/7/ns/net", NetnsInode: 1,
			MAC: ether.MAC{0x02, 0, 0, 0, 0, 1}, MasterIndex: 2,
		},
		"error": Error{Code: CodeTryAgain, Msg: "datapath is not ready", Details: "load programs: permission denied"},
		"services": []Service{{
			Namespace: "default", Name: "multus-service", Network: "default/macvlan1",
			VIP: netip.MustParseAddr("192.168.20.240"), Port: 55003, Protocol: "TCP",
			Algorithm: "maglev", Mode: "direct", Owner: "node1", Master: "eth1", State: "active", Counters: counters,
			Backends: []Backend{{
				Pod: "default/nginx-0", Node: "node1", Address: netip.MustParseAddr("192.168.20.20"),
				MAC: ether.MAC{0x02, 0, 0, 0, 0, 0x11}, Port: 80, Weight: 1, State: "active", Local: true, Counters: counters,
			}},
		}},
	}
	for name, value := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := json.MarshalIndent(value, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			path := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("JSON (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAttachmentReadsBackFromTheWire(t *testing.T) {
	data, err := os.ReadFile("testdata/attachment.json")
	if err != nil {
		t.Fatal(err)
	}
	var got Attachment
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(exampleAttachment(), got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
		t.Errorf("attachment (-want +got):\n%s", diff)
	}
}

func TestErrorAndCounters(t *testing.T) {
	if got := (&Error{Msg: "a"}).Error(); got != "a" {
		t.Errorf("Error without details = %q", got)
	}
	if got := (&Error{Msg: "a", Details: "b"}).Error(); got != "a: b" {
		t.Errorf("Error with details = %q", got)
	}
	sum := Counters{Connections: 1, Packets: 2, Bytes: 3}.Add(Counters{Connections: 10, Packets: 20, Bytes: 30})
	if sum != (Counters{Connections: 11, Packets: 22, Bytes: 33}) {
		t.Errorf("sum = %+v", sum)
	}
}
