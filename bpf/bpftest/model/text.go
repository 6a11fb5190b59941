// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"slices"
	"strings"
)

// Text writes a memory, one sorted line each: the tuple as it arrives, the tuple as it leaves, the new destination MAC,
// and the flags.
func (m Flows) Text() string {
	var lines []string
	for t, f := range m {
		line := fmt.Sprintf("%s => %s > %s", t, f.Src, f.Dst)
		if !f.MAC.IsZero() {
			line += " to " + f.MAC.String()
		}
		for _, flag := range []struct {
			name string
			set  bool
		}{
			{"reply", f.Reply},
			{"hairpin", f.Hairpin},
			{"fin", f.Fin},
			{"peer-fin", f.PeerFin},
			{"reset", f.Reset},
			{"synack-seen", f.SynAckSeen},
		} {
			if flag.set {
				line += " " + flag.name
			}
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// ChoicesText writes the choices, one sorted line each.
func (n *Node) ChoicesText() string {
	var lines []string
	for t, c := range n.Choices {
		line := fmt.Sprintf("%s => backend %d", t, c.Backend)
		if c.Established {
			line += " established"
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// KeptText writes which backends clients are kept with, one sorted line each.
func (n *Node) KeptText() string {
	var lines []string
	for c, id := range n.Kept {
		lines = append(lines, fmt.Sprintf("%s service %d => backend %d", c.Addr, c.Service, id))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// String writes a tuple as tcpdump would.
func (t Tuple) String() string {
	name := map[uint8]string{protoTCP: "tcp", protoUDP: "udp"}[t.Proto]
	return fmt.Sprintf("%s %s > %s", name, t.Src, t.Dst)
}
