// SPDX-License-Identifier: Apache-2.0

// Package dataplane makes the kernel do what a State says: it owns the BPF maps, the programs on the masters, and their
// pins. It must not decide what is wanted, and nothing in it is needed for packets to flow: links, programs and maps are
// pinned, so an agent that stops, crashes or is upgraded loses none.
package dataplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bpf"
	"github.com/sluice-lb/sluice/daemon/internal/dataplane/mirror"
	"github.com/sluice-lb/sluice/daemon/internal/dataplane/owner"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/ether"
	"github.com/sluice-lb/sluice/internal/lock"
)

// Options configure a Dataplane.
type Options struct {
	// PinDir is a directory on a bpffs, created if it is missing. Its parent must exist.
	PinDir string
	// Attach chooses how programs are attached. The zero value is AttachAuto.
	Attach AttachMode
	// MaxFlows bounds the confirmed TCP flows, two entries a connection. Optional; 0 means the default of 524,288.
	MaxFlows uint32
	// NoBackends is what a client of a Service without backends gets. The zero value is NoBackendsReject.
	NoBackends NoBackends
	// Notify is called by Run when somebody else changed what is attached to a master: Apply puts it right, or reports
	// it. It must not block. Optional.
	Notify func()
	// Logger is for what Run finds, and for what Apply takes back from others; Apply returns its errors.
	Logger *slog.Logger
}

// Dataplane is the datapath of one node. Apply and Close belong to one goroutine; Run, Counters and the Collector may run
// beside it.
type Dataplane struct {
	log    *slog.Logger
	notify func()
	pins   string
	single *lock.Lock // of the pin directory
	spec   *ebpf.CollectionSpec
	maps   *bpf.LbMaps
	mapIDs map[ebpf.MapID]bool
	hooks  hooks
	places places

	addresses     *mirror.Mirror[bpf.LbAddressKey, bpf.LbAddressInfo]
	stations      *mirror.Mirror[bpf.LbStationKey, bpf.LbStation]
	allowed       *mirror.Mirror[bpf.LbAllowedKey, uint32]
	services      *mirror.Mirror[bpf.LbServiceKey, bpf.LbService]
	backends      *mirror.Mirror[uint32, bpf.LbBackend]
	localBackends *mirror.Mirror[bpf.LbLocalBackendKey, uint32]
	stats         *mirror.Mirror[uint32, struct{}]
	owners        *owner.Table
	tables        *tables
	ids           *ids                           // nil until they are restored
	frontends     map[bpf.LbServiceKey]*frontend // that are wanted
	podNetns      map[bpf.LbAddressKey]int32     // numbers of the namespaces in which pods have their addresses
	pass          uint64                         // how many States were translated
	masters       map[int]lb.Master              // whose programs this process has loaded
	swept         bool                           // what earlier agents attached has been looked for
	leftover      bool                           // there may be flows on interfaces that are no masters any more
	inherited     bool                           // there may be flows to pods that a former agent has removed
	netns         func(path string) (int, error)

	flowEntries atomic.Int64 // as Run last counted them
}

// NoBackends is an answer to new flows of a Service that has no backend for them.
type NoBackends string

// The answers. Either way, packets are counted.
const (
	NoBackendsReject NoBackends = "reject" // TCP reset, ICMP port unreachable; 1,000 a second and CPU of each
	NoBackendsDrop   NoBackends = "drop"   // silence
)

// Open loads the maps, reusing the pinned ones, and finds out how programs can be attached. It attaches nothing yet, and
// leaves what an earlier agent attached as it is. While another process has the pin directory open, it refuses.
func Open(opts Options) (_ *Dataplane, err error) {
	if err := makePinDir(opts.PinDir); err != nil {
		return nil, err
	}
	single, err := lockPinDir(opts.PinDir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, single.Close())
		}
	}()
	d := &Dataplane{
		log: opts.Logger, notify: opts.Notify, pins: opts.PinDir, single: single,
		masters: map[int]lb.Master{}, netns: netnsID, places: newPlaces(), leftover: true, inherited: true,
		frontends: map[bpf.LbServiceKey]*frontend{},
	}
	if d.hooks, err = newHooks(opts.Attach, filepath.Join(opts.PinDir, "links"), d.isOurs); err != nil {
		return nil, err
	}
	if d.spec, err = bpf.LoadLb(); err != nil {
		return nil, fmt.Errorf("read the embedded BPF object: %w", err)
	}
	if opts.MaxFlows != 0 {
		d.spec.Maps[bpf.LbMapFlows].MaxEntries = opts.MaxFlows
	}
	if opts.NoBackends == NoBackendsDrop {
		if err := d.spec.Variables[bpf.LbVarNoBackendDrop].Set(uint8(1)); err != nil {
			return nil, fmt.Errorf("set the answer of Services without backends: %w", err)
		}
	}
	if d.maps, err = d.loadMaps(); err != nil {
		return nil, err
	}
	if d.mapIDs, err = d.pinnedMapIDs(); err != nil {
		return nil, errors.Join(err, d.maps.Close())
	}
	d.addresses = newMirror[bpf.LbAddressKey, bpf.LbAddressInfo](d.maps.Addresses)
	d.stations = newMirror[bpf.LbStationKey, bpf.LbStation](d.maps.Stations)
	d.allowed = newMirror[bpf.LbAllowedKey, uint32](d.maps.Allowed)
	d.services = newMirror[bpf.LbServiceKey, bpf.LbService](d.maps.Services)
	d.backends = newMirror[uint32, bpf.LbBackend](d.maps.Backends)
	d.localBackends = newMirror[bpf.LbLocalBackendKey, uint32](d.maps.LocalBackends)
	d.stats = mirror.New[uint32, struct{}]("backend_stats", statsStore{d.maps.BackendStats})
	d.owners = owner.New(d.maps.Owners)
	d.tables = newTables(d.maps.Tables, d.spec.Maps[bpf.LbMapTables].InnerMap)
	return d, nil
}

// Apply makes the kernel do what state says. It is idempotent, continues after a failure and reports every one; what was
// in force for an object that failed stays in force. What packets need is written before what refers to it, and removed
// after: at no moment does a packet meet half a Service.
func (d *Dataplane) Apply(ctx context.Context, state lb.State) error {
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	if err := d.restoreIDs(); err != nil {
		return err
	}
	note(d.want(state))
	moved, err := d.movedPods()
	note(err)

	note(d.backends.Put())
	note(d.localBackends.Put())
	note(d.stations.Put())
	note(d.allowed.Put())
	note(d.publishTables())
	pointed := d.services.Put()
	note(pointed)
	note(d.addresses.Put())
	note(d.attachMasters(state.Masters))
	note(d.keepPlaces(state.Masters))
	note(d.owners.Set(ownedVIPs(state)))
	note(d.stats.Put()) // last, because memory for thousands takes the kernel seconds, and packets pass without

	note(ctx.Err())
	note(d.addresses.Prune())
	note(d.services.Prune())
	if pointed == nil { // else a service may still use what is stale
		note(d.tables.prune())
	}
	note(d.allowed.Prune())
	note(d.localBackends.Prune())
	note(d.stations.Prune())
	note(d.backends.Prune())
	note(d.stats.Prune())
	note(d.forgetFlows(moved))
	note(d.forgetLeftovers(state.Masters))
	return errors.Join(errs...)
}

// Serves tells whether packets to a pod on a master are balanced now. It reads the kernel, so it may run beside Apply.
func (d *Dataplane) Serves(master int, mac ether.MAC) bool {
	var station bpf.LbStation
	err := d.maps.Stations.Lookup(stationKey(master, mac), &station)
	if err != nil || station.Kind != uint16(bpf.LbStationKindSTATION_POD) {
		return false
	}
	for _, dir := range directions {
		programs, err := d.programs(place{ifindex: master, dir: dir})
		if _, there := ahead(programs); err != nil || !there {
			return false
		}
	}
	return true
}

// Close lets go of the kernel objects and leaves the pins: traffic goes on.
func (d *Dataplane) Close() error { return errors.Join(d.maps.Close(), d.single.Close()) }

// loadMaps opens the pinned maps and creates what is missing. A map of another layout, from another version, gives way to
// a new one: the programs in force keep theirs until they are replaced, whole, by ones that use the new.
func (d *Dataplane) loadMaps() (*bpf.LbMaps, error) {
	for name, m := range d.spec.Maps {
		if m.Pinning != ebpf.PinByName {
			continue
		}
		path := filepath.Join(d.pins, name)
		old, err := ebpf.LoadPinnedMap(path, nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open pinned map %s: %w", path, err)
		}
		if err := m.Compatible(old); err != nil {
			d.log.Warn("replacing a pinned map of another layout; what it remembered is lost", "map", path, "err", err)
			if err := old.Unpin(); err != nil {
				return nil, fmt.Errorf("unpin map %s: %w", path, err)
			}
		}
		if err := old.Close(); err != nil {
			return nil, fmt.Errorf("close map %s: %w", path, err)
		}
	}
	maps := &bpf.LbMaps{}
	opts := &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: d.pins}}
	if err := d.spec.LoadAndAssign(maps, opts); err != nil {
		return nil, fmt.Errorf("load the BPF maps pinned in %s: %w", d.pins, err)
	}
	return maps, nil
}

// pinnedMapIDs gives the numbers of our maps, by which our programs are known.
func (d *Dataplane) pinnedMapIDs() (map[ebpf.MapID]bool, error) {
	ids := map[ebpf.MapID]bool{}
	for name, spec := range d.spec.Maps {
		if spec.Pinning != ebpf.PinByName {
			continue
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(d.pins, name), nil)
		if err != nil {
			return nil, fmt.Errorf("open pinned map %s: %w", name, err)
		}
		info, err := m.Info()
		if err := errors.Join(err, m.Close()); err != nil {
			return nil, fmt.Errorf("look at pinned map %s: %w", name, err)
		}
		if id, ok := info.ID(); ok {
			ids[id] = true
		}
	}
	return ids, nil
}

func newMirror[K, V comparable](m *ebpf.Map) *mirror.Mirror[K, V] {
	name := m.String()
	if info, err := m.Info(); err == nil {
		name = info.Name
	}
	return mirror.New(name, mirror.Kernel[K, V]{Map: m})
}

// bpffsMagic is BPF_FS_MAGIC of linux/magic.h.
const bpffsMagic = 0xcafe4a11

func makePinDir(dir string) error {
	parent := filepath.Dir(dir)
	var fs unix.Statfs_t
	if err := unix.Statfs(parent, &fs); err != nil {
		return fmt.Errorf("look at %s, the parent of the pin directory: %w", parent, err)
	}
	if fs.Type != bpffsMagic {
		return fmt.Errorf("pin directory %s: %s is not a BPF file system; mount one with `mount -t bpf bpf %s` or name another with --bpffs",
			dir, parent, parent)
	}
	for _, d := range []string{dir, filepath.Join(dir, "links")} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make pin directory: %w", err)
		}
	}
	return nil
}

// lockPinDir makes this process the only one that works on the pins, until the lock is closed or the process ends.
func lockPinDir(dir string) (*lock.Lock, error) {
	l, err := lock.Take(dir)
	var held *lock.HeldError
	if errors.As(err, &held) {
		return nil, fmt.Errorf("another agent works on the pin directory: %w: stop it first, or, if it serves other "+
			"interfaces, give this one a directory of its own with --bpffs", err)
	}
	return l, err
}
