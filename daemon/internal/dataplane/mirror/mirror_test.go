// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

// fakeStore behaves like a BPF hash map of a fixed size, and fails at a given rate.
type fakeStore struct {
	entries map[string]int
	size    int
	rate    float64
	rand    *rand.Rand
	writes  int
}

var errInjected = errors.New("injected")

func (f *fakeStore) fails() bool { return f.rand != nil && f.rand.Float64() < f.rate }

func (f *fakeStore) All() (map[string]int, error) {
	if f.fails() {
		return nil, errInjected
	}
	return maps.Clone(f.entries), nil
}

func (f *fakeStore) Put(k string, v int) error {
	f.writes++
	if f.fails() {
		return errInjected
	}
	if _, ok := f.entries[k]; !ok && len(f.entries) >= f.size {
		return fmt.Errorf("%w: its %d entries are all in use", ErrFull, f.size)
	}
	f.entries[k] = v
	return nil
}

func (f *fakeStore) Delete(k string) error {
	f.writes++
	if f.fails() {
		return errInjected
	}
	if _, ok := f.entries[k]; !ok {
		return ebpf.ErrKeyNotExist
	}
	delete(f.entries, k)
	return nil
}

func sync(m *Mirror[string, int], want map[string]int) error {
	m.SetAll(want)
	return errors.Join(m.Put(), m.Prune())
}

func TestSyncWritesOnlyTheDifference(t *testing.T) {
	store := &fakeStore{entries: map[string]int{"kept": 1, "changed": 1, "stale": 1}, size: 10}
	m := New("test", store)
	want := map[string]int{"kept": 1, "changed": 2, "new": 3}
	if err := sync(m, want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, store.entries); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if store.writes != 3 {
		t.Errorf("%d writes, want 3: one changed, one new, one deleted", store.writes)
	}
	if err := sync(m, want); err != nil || store.writes != 3 {
		t.Errorf("a second sync wrote again (%d writes, err %v)", store.writes, err)
	}
}

func TestWhatIsTakenOffAndSetAgainIsNotWritten(t *testing.T) {
	store := &fakeStore{entries: map[string]int{"a": 1, "b": 1}, size: 10}
	m := New("test", store)
	if err := sync(m, map[string]int{"a": 1, "b": 1}); err != nil {
		t.Fatal(err)
	}
	m.Unset("a")
	m.Set("a", 1)
	m.Set("b", 2)
	m.Set("b", 1)
	m.Set("c", 1)
	m.Unset("c")
	if err := errors.Join(m.Put(), m.Prune()); err != nil || store.writes != 0 {
		t.Errorf("%d writes for no difference, %v", store.writes, err)
	}
}

func TestStaleIsWhatTheStoreStillHolds(t *testing.T) {
	store := &fakeStore{entries: map[string]int{"same": 1, "changed": 1, "gone": 1}, size: 10}
	m := New("test", store)
	m.SetAll(map[string]int{"same": 1, "changed": 2, "new": 3})
	stale := func() map[string]int {
		all, err := m.Stale()
		if err != nil {
			t.Fatal(err)
		}
		return maps.Collect(all)
	}
	if diff := cmp.Diff(map[string]int{"changed": 1, "gone": 1}, stale()); diff != "" {
		t.Errorf("before writing (-want +got):\n%s", diff)
	}
	if err := m.Put(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int{"gone": 1}, stale()); diff != "" {
		t.Errorf("after Put (-want +got):\n%s", diff)
	}
	if err := m.Prune(); err != nil {
		t.Fatal(err)
	}
	m.Set("same", 5)
	if diff := cmp.Diff(map[string]int{"same": 1}, stale()); diff != "" {
		t.Errorf("after a change (-want +got):\n%s", diff)
	}
}

func TestFullMapIsToldOnceAndServesTheRest(t *testing.T) {
	store := &fakeStore{entries: map[string]int{"a": 1}, size: 2}
	m := New("test", store)
	err := sync(m, map[string]int{"a": 2, "b": 1, "c": 1, "d": 1})
	const want = "2 entries are not in map test: the map is full: its 2 entries are all in use"
	if err == nil || err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	if len(store.entries) != 2 || store.entries["a"] != 2 {
		t.Errorf("entries %v, want the 2 that fit, with a changed", store.entries)
	}
	_ = sync(m, map[string]int{"a": 2, "d": 1}) // makes room, after it has written what fits
	if err := sync(m, map[string]int{"a": 2, "d": 1}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(map[string]int{"a": 2, "d": 1}, store.entries); diff != "" {
		t.Errorf("when there was room (-want +got):\n%s", diff)
	}
}

// scarce is a store whose memory is filled up only while nobody asks for it.
type scarce struct {
	fakeStore
	left int
}

func (s *scarce) Put(k string, v int) error {
	if s.left == 0 {
		s.left = 10
		return ErrNoMemory
	}
	s.left--
	return s.fakeStore.Put(k, v)
}

func TestPutWaitsForMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &scarce{fakeStore: fakeStore{entries: map[string]int{}, size: 1000}}
		want := map[string]int{}
		for i := range 100 {
			want[fmt.Sprint(i)] = i
		}
		if err := sync(New("test", store), want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, store.entries); diff != "" {
			t.Errorf("entries (-want +got):\n%s", diff)
		}
	})
}

func TestPutGivesUpWithoutMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := sync(New("test", noMemory{}), map[string]int{"a": 1, "b": 2})
		if want := "2 entries are not in map test: the kernel has no memory for it"; err == nil || err.Error() != want {
			t.Errorf("error %q, want %q", err, want)
		}
		if waited := time.Since(began); waited > 2*patience {
			t.Errorf("waited %v", waited)
		}
	})
}

// noMemory takes nothing.
type noMemory struct{}

func (noMemory) All() (map[string]int, error) { return nil, nil }
func (noMemory) Put(string, int) error        { return ErrNoMemory }
func (noMemory) Delete(string) error          { return nil }

func TestRetriesConvergeUnderFailures(t *testing.T) {
	for seed := range uint64(50) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			store := &fakeStore{entries: map[string]int{}, size: 1000, rate: 0.1, rand: rand.New(rand.NewPCG(seed, 1))}
			m := New("test", store)
			want := map[string]int{}
			for step := range 20 {
				want = maps.Clone(want)
				want[fmt.Sprint(store.rand.IntN(30))] = step
				delete(want, fmt.Sprint(store.rand.IntN(30)))
				for tries := 0; sync(m, want) != nil; tries++ {
					if tries > 100 {
						t.Fatal("no convergence in 100 tries")
					}
				}
				if diff := cmp.Diff(want, store.entries); diff != "" {
					t.Fatalf("step %d: entries (-want +got):\n%s", step, diff)
				}
			}
		})
	}
}
