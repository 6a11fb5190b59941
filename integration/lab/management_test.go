// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/testkit"
)

// TestManagementNetworkLeadsToControl has a server on Control answer every node and the test itself, and nobody else.
func TestManagementNetworkLeadsToControl(t *testing.T) {
	l := mustLab(t, Options{Nodes: 2, Management: true, Path: []string{mustBuild(t)}})
	if _, err := l.Control.Start("traffic", "serve", "-name", "control"); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{l.Control.Addr.String(), l.Control.Addr6.String()} {
		target := net.JoinHostPort(addr, "80")
		for _, n := range l.Nodes() {
			mustReach(t, n.Host, target)
		}
		if err := l.Client.Command(t.Context(), "traffic", "load", "-n", "1", target).Run(); err == nil {
			t.Errorf("the client reaches %s, though it is not on the management network", target)
		}
	}
	if got := []string{l.Node(1).Internal.String(), l.Node(2).Internal.String()}; !slices.Equal(got,
		[]string{"172.30.0.1", "172.30.0.2"}) {
		t.Errorf("the nodes' addresses are %v", got)
	}
}

// TestDialIsOnTheHost connects this process, whose own network has no such address.
func TestDialIsOnTheHost(t *testing.T) {
	testkit.Require(t, testkit.Root)
	l, err := NewControl(t.Context(), []string{mustBuild(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := l.Control.Start("traffic", "serve", "-name", "control"); err != nil {
		t.Fatal(err)
	}
	target := net.JoinHostPort(l.Control.Addr.String(), "80")
	mustReach(t, l.Control, target)
	conn, err := l.Control.Dial(t.Context(), "tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if from := conn.LocalAddr().(*net.TCPAddr).IP.String(); from != l.Control.Addr.String() {
		t.Errorf("the connection is from %s, want %s", from, l.Control.Addr)
	}
	if _, err := l.Control.Dial(t.Context(), "tcp", "localhost:80"); err == nil || !strings.Contains(err.Error(), "control") {
		t.Errorf("dial a name: %v", err)
	}
}

// mustReach waits until a server answers a host: it may have just been started.
func mustReach(t *testing.T, h *Host, target string) {
	t.Helper()
	err := Until(t.Context(), 10*time.Second, h.Name+" reaches "+target, func(ctx context.Context) error {
		return h.Command(ctx, "traffic", "load", "-n", "1", target).Run()
	})
	if err != nil {
		t.Error(err)
	}
}
