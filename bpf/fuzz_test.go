// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

// dropped are the reasons that cost a packet; passed those that leave it alone. The rest is served.
var (
	dropped = []string{
		"NOT_OWNER", "ANSWER_LIMIT", "ICMP_UNRELATED", "NO_SERVICE", "SOURCE", "NO_BACKEND", "NOT_SELECTED", "FRAGMENT",
		"UNSUPPORTED_PROTOCOL", "FLOWS_FULL", "COLLISION", "ISOLATED", "NO_PORT", "REWRITE",
	}
	passed = []string{"MISS", "TAGGED", "FLOODED", "FORWARDED", "MALFORMED"}
)

// runnable tells whether the kernel takes the frame for a test run: it wants the whole header of what the EtherType
// names.
func runnable(frame []byte) bool {
	const ethernet, most = 14, 3000
	if len(frame) <= ethernet || len(frame) > most {
		return false
	}
	headers := map[uint16]int{bpftest.EtherIPv4: 20, bpftest.EtherIPv6: 40}
	return len(frame) >= ethernet+headers[binary.BigEndian.Uint16(frame[12:])]
}

// lengthAfter is how long a frame must be once the programs have seen it.
func lengthAfter(reason string, frame []byte) int {
	const ethernet, icmp, tcp = 14, 8, 20
	switch reason {
	case "ND_REPLY":
		return len(ipv6.tell(neighbour, vip, other).Bytes())
	case "REFUSED":
		header, most := 20, 576
		if binary.BigEndian.Uint16(frame[12:]) == bpftest.EtherIPv6 {
			header, most = 40, 1280
		}
		if in, _ := bpftest.ReadTransport(frame); in.Proto == bpftest.ProtoTCP {
			return ethernet + header + tcp
		}
		return ethernet + min(header+icmp+len(frame)-ethernet, most)
	}
	return len(frame)
}

// Whatever the frame, a program answers once, with an action that fits its reason, keeps the length unless it answers,
// touches only what it serves, and leaves no wrong checksum that was right before.
func FuzzFrames(f *testing.F) {
	w := bpftest.Load(f, bpftest.Config{})
	for _, family := range []family{ipv4, ipv6} {
		(&world{LB: w, family: family}).populate()
		for _, paths := range groups(family) {
			for _, p := range paths {
				for _, s := range p.steps {
					f.Add(s.dir == bpftest.Egress, s.arrived, family.packet(s.in).Bytes())
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, egress, arrived bool, frame []byte) {
		if !runnable(frame) {
			t.Skip()
		}
		dir := bpftest.Ingress
		if egress {
			dir = bpftest.Egress
		}
		got, err := w.Try(bpftest.Run{Dir: dir, Frame: frame, Arrived: arrived})
		if err != nil {
			t.Fatal(err)
		}
		frame = bpftest.WithoutPriority(frame)
		if length := lengthAfter(got.Reason, frame); len(got.Frame) != length {
			t.Fatalf("%d octets became %d, want %d", len(frame), len(got.Frame), length)
		}
		allowed := []bpftest.Action{bpftest.OK, bpftest.ToWire, bpftest.ToPods}
		switch {
		case slices.Contains(dropped, got.Reason):
			allowed = []bpftest.Action{bpftest.Drop}
		case slices.Contains(passed, got.Reason):
			allowed = []bpftest.Action{bpftest.PassOn}
			if !bytes.Equal(got.Frame, frame) {
				t.Fatalf("%s changed the frame:\n%s%s", got.Reason, bpftest.Text(frame), bpftest.Text(got.Frame))
			}
		}
		if !slices.Contains(allowed, got.Action) {
			t.Fatalf("%s came with %s, want one of %q", got.Reason, got.Action, allowed)
		}
		if got.Action == bpftest.Drop || bpftest.VerifyChecksums(frame) != nil {
			return
		}
		if err := bpftest.VerifyChecksums(got.Frame); err != nil {
			t.Fatalf("%v\n%s%s", err, bpftest.Text(frame), bpftest.Text(got.Frame))
		}
	})
}
