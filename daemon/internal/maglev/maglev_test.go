// SPDX-License-Identifier: Apache-2.0

package maglev

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// backends names n backends as the compiler does: by address and port.
func backends(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("10.%d.%d.%d:80", i>>16, i>>8&255, i&255)
	}
	return ids
}

func TestSizeIsAFunctionOfTheBackendCount(t *testing.T) {
	for _, tt := range []struct{ backends, want int }{
		{-1, 0},
		{0, 0},
		{1, 4_093},
		{20, 4_093},
		{21, 16_381},
		{80, 16_381},
		{81, 65_521},
		{320, 65_521},
		{321, 262_139},
		{1_280, 262_139},
		{1_281, 1_048_573},
		{5_120, 1_048_573},
		{50_000, 1_048_573},
	} {
		if got := Size(tt.backends); got != tt.want {
			t.Errorf("Size(%d) = %d, want %d", tt.backends, got, tt.want)
		}
	}
}

func TestSizesArePrimeAndGiveTwoHundredSlotsPerBackend(t *testing.T) {
	for _, step := range steps {
		for d := 2; d*d <= step.slots; d++ {
			if step.slots%d == 0 {
				t.Errorf("size %d is divisible by %d: some slots would never be visited", step.slots, d)
			}
		}
		if step.slots/step.backends < 200 {
			t.Errorf("size %d gives %d backends fewer than 200 slots each", step.slots, step.backends)
		}
	}
}

// Nodes of different releases share the segment. If this test fails, the change moves every connection in a cluster that
// is being upgraded: it is the change that is wrong, not the digest.
func TestTablesNeverChangeBetweenReleases(t *testing.T) {
	for _, tt := range []struct {
		seed     uint64
		backends int
		want     string
	}{
		{0, 1, "d9e77f5a3d030692"},
		{0, 3, "4aaf4fd713c9b51d"},
		{7, 3, "380ef2d27106d2d3"},
		{0, 50, "67844450027f4a61"},
		{0, 320, "deda51473034661b"},
	} {
		digest := sha256.New()
		if err := binary.Write(digest, binary.BigEndian, Build(tt.seed, backends(tt.backends))); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", digest.Sum(nil)[:8]); got != tt.want {
			t.Errorf("Build(%d, %d backends) has digest %s, want %s", tt.seed, tt.backends, got, tt.want)
		}
	}
}

func TestSharesDifferByOneSlotAtMost(t *testing.T) {
	for _, n := range []int{1, 2, 3, 20, 21, 100, 320} {
		counts := make([]int, n)
		for _, i := range Build(0, backends(n)) {
			counts[i]++
		}
		if lowest, highest := slices.Min(counts), slices.Max(counts); highest-lowest > 1 {
			t.Errorf("%d backends: shares from %d to %d slots", n, lowest, highest)
		}
	}
}

func TestNoBackendsGiveNoTable(t *testing.T) {
	if got := Build(0, nil); got != nil {
		t.Errorf("got %d slots", len(got))
	}
}

func TestSeedMovesSlots(t *testing.T) {
	if cmp.Equal(Build(1, backends(3)), Build(2, backends(3))) {
		t.Error("two seeds give one table")
	}
}

// Of the slots that change when a backend goes, its own must. The others are "innocent": flows of backends that stay. The
// mean over the backends that may go is one or two slots in a hundred at 200 slots per backend, as others measure it too.
func TestRemovingABackendMovesFewInnocentSlots(t *testing.T) {
	for _, tt := range []struct {
		backends int
		innocent float64 // mean share of all slots
	}{
		{3, 0.03},
		{10, 0.015},
		{20, 0.02},
		{80, 0.02},
		{100, 0.006},
		{320, 0.015},
	} {
		ids := backends(tt.backends)
		before := Build(0, ids)
		const samples = 20
		innocent, total := 0, 0
		for gone := 0; gone < tt.backends; gone += max(1, tt.backends/samples) {
			rest := slices.Delete(slices.Clone(ids), gone, gone+1)
			after := Build(0, rest)
			if len(before) != len(after) {
				t.Fatalf("%d backends: %d slots became %d", tt.backends, len(before), len(after))
			}
			for slot := range before {
				if was := ids[before[slot]]; was != ids[gone] && was != rest[after[slot]] {
					innocent++
				}
			}
			total += len(before)
		}
		share := float64(innocent) / float64(total)
		t.Logf("%d -> %d backends, %d slots: %.2f %% innocent", tt.backends, tt.backends-1, len(before), 100*share)
		if share > tt.innocent {
			t.Errorf("%d backends: %.2f %% innocent slots moved, want at most %.2f %%",
				tt.backends, 100*share, 100*tt.innocent)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	for _, n := range []int{3, 20, 80, 320, 1_280} {
		b.Run(fmt.Sprintf("backends=%d", n), func(b *testing.B) {
			ids := backends(n)
			for b.Loop() {
				Build(0, ids)
			}
		})
	}
}
