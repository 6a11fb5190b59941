// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sluice-lb/sluice/integration/lab"
	"github.com/sluice-lb/sluice/internal/testkit"
)

// end lets everything go, and waits until nothing is left.
func (s *steps) end() {
	for _, nw := range stepNetworks {
		s.apply(nw.manifest())
	}
	for _, m := range stepManifests {
		s.apply(m.name, m.text)
	}
	s.lookAtEverything()
	for _, p := range s.pods {
		if p.number%2 == 0 {
			s.letVanish(p)
		}
	}
	s.mustHaveWhatItMust("")
	for len(s.pods) > 0 {
		s.end1(s.pods[0])
	}
	// The masters are still there: it is for the pods that the flows are forgotten.
	s.must(lab.Until(s.Context(), stepLimit, "the flows are forgotten", s.noFlowIsLeft))
	for name, there := range s.applied {
		if there {
			s.remove(name)
		}
	}
	s.lookAtEverything()
	s.must(lab.Until(s.Context(), stepLimit, "nothing is left", s.nothingIsLeft))
}

func (s *steps) noFlowIsLeft(context.Context) error {
	entries, err := testkit.PinnedMaps(s.n.Root() + pinDir)
	if err != nil {
		return err
	}
	for _, name := range flowMaps {
		if entries[name] > 0 {
			return fmt.Errorf("map %s has %d entries", name, entries[name])
		}
	}
	return nil
}

// nothingIsLeft looks where the agent has no eyes.
func (s *steps) nothingIsLeft(ctx context.Context) error {
	for what, look := range map[string]struct {
		text string
		want int
		run  []string
	}{
		"rules of the node":        {":", 3, []string{"ip", "rule"}},
		"routes of the node's own": {"table 510", 0, []string{"ip", "route", "show", "table", "all"}},
		"numbers of namespaces":    {"nsid", 1, []string{"ip", "netns", "list-id"}},
		"interfaces":               {":", 4 + 2*min(1, s.masters["eth3"]), []string{"ip", "-o", "link"}},
		"named namespaces":         {"", 0, []string{"ls", "/run/netns"}},
		"leases, one of node 2":    {"", 1, []string{"find", "/var/lib/cni/networks", "-type", "f", "-name", "[0-9]*"}},
	} {
		n, err := count(ctx, s.n, look.text, look.run[0], look.run[1:]...)
		if err != nil {
			return err
		}
		if n != look.want {
			out, _ := s.n.Command(ctx, look.run[0], look.run[1:]...).Output()
			return fmt.Errorf("%d %s, want %d:\n%s", n, what, look.want, out)
		}
	}
	cached, err := os.ReadDir(filepath.Join(s.c.Dir(), "cni-cache", s.n.Name, "results"))
	if err == nil && len(cached) > 0 {
		err = fmt.Errorf("libcni remembers %v", cached)
	}
	return err
}
