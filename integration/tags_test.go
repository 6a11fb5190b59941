// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/integration/lab"
)

// A frame with a priority tag belongs to the untagged segment, and its priority reaches the pod. A frame of a VLAN belongs
// to a sub-interface, which is not here: nobody answers.
func TestTaggedFrames(t *testing.T) {
	mustTool(t, "tcpdump")
	c := mustCluster(t, "auto", lab.Options{})
	webs, vips := mustWeb(t, c)
	asker := mustPod(t, c.Node(1), "asker", "asker")
	var taps []*lab.Process
	for _, web := range webs {
		taps = append(taps, mustTap(t, web))
	}
	for _, client := range []struct {
		name, dev string
		from      runner
		addr      string
	}{
		{"external client", "eth0", c.Client, c.Client.Addr.String()}, // whose tag the kernel has taken off before TC
		{"pod", "net1", asker, asker.Addr.String()},                   // whose tag is in the frame at TC
	} {
		t.Run(client.name, func(t *testing.T) {
			mac := mustNeighbour(t, client.from, client.dev, vips["IPv4"])
			send := func(tags, count, timeout string) ([]byte, error) {
				return client.from.Command(t.Context(), "traffic", "tagged", "-dev", client.dev, "-to", mac, "-tags", tags,
					"-bytes", "100", "-n", count, "-timeout", timeout, vips.at("IPv4", "8080")).Output()
			}
			out, err := send("8100:a000", "40", "5s") // one of three pods misses all of them with a chance of 10^-7
			r := mustReport(t, out, err)
			if len(r.Clients) != 1 || r.Clients[client.addr] == 0 {
				t.Errorf("pods saw %v, want %s", r.Clients, client.addr)
			}
			for i, web := range webs {
				if r.Pods[web.Name] == 0 {
					t.Errorf("%s never answered: %v", web.Name, r.Pods)
				}
				mustShow(t, taps[i], client.addr)
			}
			for name, tags := range map[string]string{
				"of a VLAN": "8100:a007", "of a service VLAN": "88a8:a007", "of a VLAN, under a priority": "8100:a000,8100:a007",
			} {
				if _, err := send(tags, "1", "300ms"); err == nil {
					t.Errorf("a frame %s was answered", name)
				}
			}
		})
	}
}

// mustTap shows the tagged frames that reach a pod's server.
func mustTap(t *testing.T, p *lab.Pod) *lab.Process {
	t.Helper()
	tap, err := p.Start("tcpdump", "-l", "-nn", "-e", "-i", "net1", "vlan and udp dst port 80")
	if err != nil {
		t.Fatal(err)
	}
	err = lab.Until(t.Context(), 10*time.Second, "tcpdump listens", func(context.Context) error {
		if !strings.Contains(tap.Output(), "listening on") {
			return fmt.Errorf("it says %q", tap.Output())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tap
}

// mustShow waits until a tap has shown a frame of a client with priority 5.
func mustShow(t *testing.T, tap *lab.Process, client string) {
	t.Helper()
	err := lab.Until(t.Context(), 10*time.Second, "the priority arrives", func(context.Context) error {
		for line := range strings.Lines(tap.Output()) {
			if strings.Contains(line, "vlan 0, p 5,") && strings.Contains(line, client+".") {
				return nil
			}
		}
		return fmt.Errorf("the pod got\n%s", tap.Output())
	})
	if err != nil {
		t.Error(err)
	}
}

// mustNeighbour lets a client ask once, and gives the MAC that it has learnt.
func mustNeighbour(t *testing.T, from runner, dev, addr string) string {
	t.Helper()
	if err := from.Command(t.Context(), "traffic", "udp", "-n", "1", addr+":8080").Run(); err != nil {
		t.Fatal(err)
	}
	out, err := from.Command(t.Context(), "ip", "neigh", "show", "to", addr, "dev", dev).Output()
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(out))
	for i := range len(fields) - 1 {
		if fields[i] == "lladdr" {
			return fields[i+1]
		}
	}
	t.Fatalf("no MAC for %s in %q", addr, out)
	return ""
}
