// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sluice-lb/sluice/bpf/bpftest"
)

// rawScript writes steps as raw frames.
func rawScript(family family, steps []step) []byte {
	var script []byte
	for _, s := range steps {
		frame := family.packet(s.in).Bytes()
		r := record{Kind: kindRaw, Src: byte(len(frame) >> 8), Dst: byte(len(frame))}
		if s.dir == bpftest.Egress {
			r.Hook |= 7
		}
		if s.arrived {
			r.Hook |= 7 << 3
		}
		script = append(append(script, r.bytes()...), frame...)
	}
	return script
}

func (r record) bytes() []byte {
	b, err := binary.Append(nil, binary.BigEndian, r)
	if err != nil {
		panic(err) // impossible: a record has a fixed size
	}
	return b
}

// randomScript writes records at random.
func randomScript(random *rand.Rand, records int) []byte {
	script := make([]byte, records*recordSize)
	for i := range script {
		script[i] = byte(random.Uint32())
	}
	return script
}

// The programs and the model agree on every frame of a script, and on what they remember after it.
func FuzzDatapath(f *testing.F) {
	w := newTwin(f)
	for _, family := range []family{ipv4, ipv6} {
		for _, paths := range groups(family) {
			for _, p := range paths {
				if p.setup == nil && p.cfg.MaxEntries == nil {
					f.Add(rawScript(family, p.steps))
				}
			}
		}
		for _, first := range firsts() {
			for _, rest := range lives() {
				f.Add(script(family, append([]record{first}, rest...)...))
			}
		}
	}
	for seed := range uint64(16) {
		f.Add(randomScript(rand.New(rand.NewPCG(seed, 3)), maxFrames))
	}
	f.Fuzz(func(t *testing.T, script []byte) { w.mustAgree(t, script) })
}

func TestProgramsAgreeWithTheModelOnRandomScripts(t *testing.T) {
	const scripts, records = 1000, 60
	w := newTwin(t)
	for seed := range uint64(scripts) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w.mustAgree(t, randomScript(rand.New(rand.NewPCG(seed, 3)), records))
		})
	}
}
