// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/integration/lab"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// stepLimit is for anything that should take milliseconds, on a machine that is busy with other things.
const stepLimit = 20 * time.Second

const pinDir = "/sys/fs/bpf/sluice"

// state is what the test reads of the agent's State.
type state struct {
	Masters []struct {
		Index int
		Addrs []string
	}
	Pods  []statePod
	Peers []struct {
		Master int
		MAC    string
	}
	VIPs []struct {
		Master int
		Addr   string
		Owned  bool
	}
	Frontends []struct {
		Service, Network, Addr string
		Backends               []struct {
			Pod, State string
			Local      bool
		}
	}
}

type statePod struct {
	Attachment string
	Master     int
	MAC        string
	Addrs      []string
}

func (s *steps) rawState(ctx context.Context) (string, error) {
	raw, err := api.NewClient(s.n.Root() + api.Socket).State(ctx)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = json.Indent(&out, raw, "", "  ")
	return out.String(), err
}

func (s *steps) state(ctx context.Context) (state, error) {
	raw, err := s.rawState(ctx)
	if err != nil {
		return state{}, err
	}
	var st state
	return st, json.Unmarshal([]byte(raw), &st)
}

// lookAtEverything ends what is open, and waits until all that Sluice keeps is what it must be; then it starts another
// agent, and waits until that has the same State.
func (s *steps) lookAtEverything() {
	for range 3 {
		s.sendTraffic()
	}
	s.traffic.Wait()
	for _, p := range s.pods {
		if p.is(held) || p.is(absent) {
			continue
		}
		// The runtime comes back to what failed, or the node's reboot does.
		if p.number%2 == 0 {
			s.say("%s: DEL", p)
			p.unpublish(s)
			s.must(p.Detach(s.Context()))
		}
		s.say("%s: vanishes", p)
		s.letVanish(p)
	}
	kill := s.chance(2)
	s.startAgent()
	s.mustHaveWhatItMust("")
	old, err := s.rawState(s.Context())
	s.must(err)
	entries, err := testkit.PinnedMaps(s.n.Root() + pinDir)
	s.must(err)
	for _, name := range flowMaps {
		s.flows += entries[name]
	}
	if kill {
		s.killAgent()
	} else {
		s.stopAgent()
	}
	s.letAMinutePass()
	s.startAgent()
	s.mustHaveWhatItMust(old)
}

// letAMinutePass makes older what killed plugins have half written. The agent removes it when nobody can be writing it any
// more.
func (s *steps) letAMinutePass() {
	then := time.Now().Add(-2 * time.Minute)
	for _, name := range s.spool() {
		if _, ok := api.ParseSpoolTemp(name); ok {
			s.say("%s is left", name)
			s.halves++
			s.must(os.Chtimes(filepath.Join(s.n.Root()+api.SpoolDir, name), then, then))
		}
	}
}

// mustHaveWhatItMust waits until everything is there and nothing else, and the State is this one, if one is given.
func (s *steps) mustHaveWhatItMust(old string) {
	s.Helper()
	err := lab.Until(s.Context(), stepLimit, "all is as it must be", func(ctx context.Context) error {
		raw, err := s.rawState(ctx)
		if err != nil {
			return err
		}
		if diff := cmp.Diff(old, raw); old != "" && diff != "" {
			return fmt.Errorf("State of the former agent (-), and of this one (+):\n%s", diff)
		}
		var st state
		if err := json.Unmarshal([]byte(raw), &st); err != nil {
			return err
		}
		have, err := s.have(ctx, st, old != "")
		if err != nil {
			return err
		}
		want := s.want(st)
		slices.Sort(have)
		slices.Sort(want)
		if diff := cmp.Diff(want, have); diff != "" {
			return fmt.Errorf("what must be there (-), and what is (+):\n%s", diff)
		}
		return nil
	})
	s.must(err)
}

// want tells what must be there, a thing a line. What the maps must hold follows from the State.
func (s *steps) want(st state) []string {
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	active := map[string]bool{}
	for _, p := range s.pods {
		rules, routes := 0, 0
		for i, iface := range p.ifaces {
			if iface.held != held {
				continue
			}
			key := api.Key{ContainerID: p.ContainerID, IfName: ifname(i)}
			say("spool %s", api.SpoolName(key))
			rules += iface.network.routed()
			if iface.lost {
				continue
			}
			routes += 2 * iface.network.routed() // to the subnet, and to the gateway
			say("attached %s", key)
			if p.published && p.ready {
				active[iface.network.name+" "+p.app+" "+p.String()] = true
			}
		}
		if p.netns {
			say("routing %s: %d rules, %d routes", p, rules, routes)
		}
	}
	for _, svc := range stepServices {
		for _, nw := range svc.networks {
			if !s.applied["svc-"+svc.name+".yaml"] || !s.applied[nw.file()] || s.masters[nw.master] == 0 {
				continue
			}
			for _, p := range s.pods {
				if active[nw.name+" "+svc.app+" "+p.String()] {
					say("active default/%s default/%s %s", svc.name, nw.name, p)
				}
			}
			if svc.app == "a" && nw == plainNetwork {
				say("active default/%s default/%s default/elsewhere", svc.name, nw.name)
			}
			say("vip of default/%s default/%s", svc.name, nw.name)
		}
	}
	for name, n := range wantedEntries(st) {
		say("map %s: %d", name, n)
	}
	for _, name := range mapNames {
		say("pin %s", name)
	}
	for _, m := range st.Masters {
		for _, dir := range []string{"ingress", "egress"} {
			say("pin lb_%s-%d", dir, m.Index)
			say("pin links/%d-%s", m.Index, dir)
		}
	}
	for _, index := range s.wantedMasters() {
		say("master %d", index)
	}
	return lines
}

// wantedMasters gives the interfaces that must carry programs: those under a NAD or an attachment.
func (s *steps) wantedMasters() []int {
	indexes := map[int]bool{}
	for _, nw := range stepNetworks {
		indexes[s.masters[nw.master]] = indexes[s.masters[nw.master]] || s.applied[nw.file()]
	}
	for _, p := range s.pods {
		for _, i := range p.ifaces {
			if i.held == held && !i.lost {
				indexes[s.masters[i.network.master]] = true
			}
		}
	}
	var out []int
	for index, wanted := range indexes {
		if wanted && index != 0 {
			out = append(out, index)
		}
	}
	return out
}

// mapNames are the maps that the agent pins.
var mapNames = []string{
	"addresses", "owners", "stations", "services", "backends", "local_backends", "tables", "flows", "half_open", "datagrams",
	"selections", "backend_stats", "counters", "allowed", "affinities", "buckets",
}

// flowMaps are those that packets fill for local pods. What they hold is judged when no pod is left. selections, which they
// fill for pods elsewhere, is never judged: it is a cache that forgets its oldest, and a choice of a backend that is gone is
// none.
var flowMaps = []string{"flows", "half_open", "datagrams"}

// wantedEntries gives how many entries each map of the agent's must have for a State.
func wantedEntries(st state) map[string]int {
	addresses, stations := map[string]bool{}, map[string]bool{}
	for _, m := range st.Masters {
		for _, a := range m.Addrs {
			addresses[fmt.Sprint(m.Index, a)] = true
		}
	}
	for _, p := range st.Pods {
		stations[fmt.Sprint(p.Master, p.MAC)] = true
		for _, a := range p.Addrs {
			addresses[fmt.Sprint(p.Master, a)] = true
		}
	}
	for _, p := range st.Peers {
		stations[fmt.Sprint(p.Master, p.MAC)] = true
	}
	owned := 0
	for _, v := range st.VIPs {
		addresses[fmt.Sprint(v.Master, v.Addr)] = true
		if v.Owned {
			owned++
		}
	}
	backends, local, tables := 0, 0, 0
	for _, f := range st.Frontends {
		backends += len(f.Backends)
		serves := false
		for _, b := range f.Backends {
			if b.Local {
				local++
			}
			serves = serves || b.State != "draining"
		}
		if serves {
			tables++
		}
	}
	return map[string]int{
		"addresses": len(addresses), "stations": len(stations), "services": len(st.Frontends), "owners": owned,
		"backends": backends, "backend_stats": backends, "local_backends": local, "tables": tables,
		"allowed": 0, "affinities": 0,
	}
}

// have tells what is there, in the words of want. With halves, files that are half-written count.
func (s *steps) have(ctx context.Context, st state, halves bool) ([]string, error) {
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for _, name := range s.spool() {
		if _, half := api.ParseSpoolTemp(name); halves || !half {
			say("spool %s", name)
		}
	}
	for _, p := range st.Pods {
		say("attached %s", p.Attachment)
	}
	for _, m := range st.Masters {
		say("master %d", m.Index)
	}
	for _, f := range st.Frontends {
		if !strings.Contains(f.Addr, ":8080") {
			continue
		}
		for _, b := range f.Backends {
			if b.State == "active" {
				say("active %s %s %s", f.Service, f.Network, b.Pod)
			}
		}
		say("vip of %s %s", f.Service, f.Network)
	}
	// Both ports of a Service say the same.
	slices.Sort(lines)
	lines = slices.Compact(lines)

	entries, err := testkit.PinnedMaps(s.n.Root() + pinDir)
	if err != nil {
		return nil, err
	}
	for name, n := range entries {
		if name != "selections" && !slices.Contains(flowMaps, name) {
			say("map %s: %d", name, n)
		}
	}
	pins, err := s.pins()
	if err != nil {
		return nil, err
	}
	for _, name := range pins {
		say("pin %s", name)
	}
	for _, p := range s.pods {
		if !p.netns {
			continue
		}
		rules, err := count(ctx, p, "32000:", "sh", "-c", "ip -4 rule; ip -6 rule")
		if err != nil {
			return nil, err
		}
		routes, err := count(ctx, p, " table 510", "sh", "-c", "ip -4 route show table all; ip -6 route show table all")
		if err != nil {
			return nil, err
		}
		say("routing %s: %d rules, %d routes", p, rules, routes)
	}
	return lines, nil
}

// pins lists the files of the agent on its bpffs.
func (s *steps) pins() ([]string, error) {
	root := s.n.Root() + pinDir
	var names []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone since it was listed
		}
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, path)
		names = append(names, name)
		return err
	})
	return names, err
}

// count runs a program and counts the lines of its output that hold a text.
func count(ctx context.Context, on runner, text, name string, args ...string) (int, error) {
	out, err := on.Command(ctx, name, args...).Output()
	n := 0
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n, err
}
