// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluice-lb/sluice/daemon/api"
)

var equateAddrs = cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})

// node is a spool directory and a directory of network namespaces. A namespace is a symbolic link to one of this
// process's own: a name that can vanish, and that can come to mean another namespace.
type node struct {
	t       *testing.T
	spool   string
	netns   string
	log     *syncBuffer
	changed chan struct{}
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, spool: t.TempDir(), netns: t.TempDir(), log: &syncBuffer{}, changed: make(chan struct{}, 100)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(n.log.String())
		}
	})
	return n
}

func (n *node) options() Options {
	return Options{
		Dir:      n.spool,
		Logger:   slog.New(slog.NewTextHandler(n.log, nil)),
		Notify:   func() { n.changed <- struct{}{} },
		Interval: time.Hour, // what a test sees is inotify's doing, unless it says otherwise
	}
}

func (n *node) mustOpen(opts Options) *Set {
	n.t.Helper()
	s, err := Open(opts)
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

// mustNamespace gives a name to a namespace of the kind, and its inode.
func (n *node) mustNamespace(name, kind string) (string, uint64) {
	n.t.Helper()
	path := filepath.Join(n.netns, name)
	_ = os.Remove(path)
	if err := os.Symlink("/proc/self/ns/"+kind, path); err != nil {
		n.t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		n.t.Fatal(err)
	}
	return path, info.Sys().(*syscall.Stat_t).Ino
}

// mustAttachment makes an attachment with a living namespace; it is not spooled yet.
func (n *node) mustAttachment(containerID string) api.Attachment {
	n.t.Helper()
	path, inode := n.mustNamespace("ns-"+containerID, "net")
	return api.Attachment{
		ContainerID: containerID, IfName: "net1", Network: "macvlan1",
		Pod:   api.Pod{Namespace: "default", Name: containerID},
		Netns: path, NetnsInode: inode, Kind: "macvlan", Mode: "bridge", MAC: [6]byte{2, 0, 0, 0, 0, 1},
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.20.20/24")}, Master: "eth1", MasterIndex: 3,
	}
}

func (n *node) mustSpool(attachments ...api.Attachment) {
	n.t.Helper()
	for _, a := range attachments {
		if err := api.WriteSpool(n.spool, a); err != nil {
			n.t.Fatal(err)
		}
	}
}

// run runs the set until the test ends, and waits until it watches.
func (n *node) run(s *Set) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	n.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("Run = %v, want nil after cancel", err)
		}
	})
}

// wait waits until the set's keys are these.
func (n *node) wait(s *Set, want ...string) {
	n.t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		diff := cmp.Diff(want, keys(s), cmpopts.EquateEmpty())
		if diff == "" {
			return
		}
		select {
		case <-n.changed:
		case <-deadline:
			n.t.Fatalf("keys (-want +got):\n%s", diff)
		}
	}
}

func keys(s *Set) []string {
	var out []string
	for _, a := range s.Snapshot() {
		out = append(out, a.ContainerID)
	}
	return out
}

func TestOpenRestoresWhatIsAlive(t *testing.T) {
	n := newNode(t)
	a, b := n.mustAttachment("a"), n.mustAttachment("b")
	gone, reused := n.mustAttachment("gone"), n.mustAttachment("reused")
	n.mustSpool(b, a, gone, reused)
	if err := os.Remove(gone.Netns); err != nil {
		t.Fatal(err)
	}
	n.mustNamespace("ns-reused", "mnt")

	s := n.mustOpen(n.options())
	if diff := cmp.Diff([]api.Attachment{a, b}, s.Snapshot(), equateAddrs); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
	for _, k := range []api.Key{gone.Key(), reused.Key()} {
		if _, err := api.ReadSpool(n.spool, k); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("spool file of %s after its namespace has gone: %v, want none", k, err)
		}
	}
	if len(n.changed) != 0 {
		t.Error("Open notified; its caller reads the snapshot anyway")
	}
}

func TestOpenMakesThePrivateDirectory(t *testing.T) {
	n := newNode(t)
	opts := n.options()
	opts.Dir = filepath.Join(n.spool, "sluice", "attachments")
	n.mustOpen(opts)
	info, err := os.Stat(opts.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o700 {
		t.Errorf("mode = %o, want 700", got)
	}
}

func TestBadFilesAreReportedOnceAndKept(t *testing.T) {
	n := newNode(t)
	n.mustSpool(n.mustAttachment("good"))
	bad := filepath.Join(n.spool, "bad@net1.json")
	for _, path := range []string{bad, filepath.Join(n.spool, ".new-123"), filepath.Join(n.spool, "README")} {
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := n.mustOpen(n.options())
	s.check()
	s.check()
	if diff := cmp.Diff([]string{"good"}, keys(s)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if got := strings.Count(n.log.String(), "spool file is not usable"); got != 1 {
		t.Errorf("the bad file is reported %d times, want once:\n%s", got, n.log)
	}
	if _, err := os.Stat(bad); err != nil {
		t.Errorf("the bad file is not kept: %v", err)
	}
}

// A plugin that is killed while it spools, and never asked to DEL, leaves a file that is nobody's.
func TestWhatAKilledPluginHasHalfWrittenGoesInTime(t *testing.T) {
	n := newNode(t)
	write := func(name string, age time.Duration) {
		t.Helper()
		path := filepath.Join(n.spool, name)
		at := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(path, []byte(`{"containerID`), 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	write(".c0ffee@net1.json-42", time.Hour)
	write(".c0ffee@net1.json-43", 0) // may still be written
	write("note", time.Hour)
	write("c0ffee@net2.json", time.Hour)
	n.mustOpen(n.options())
	entries, err := os.ReadDir(n.spool)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if diff := cmp.Diff([]string{".c0ffee@net1.json-43", "c0ffee@net2.json", "note"}, left); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if !strings.Contains(n.log.String(), ".c0ffee@net1.json-42") {
		t.Error("the log does not tell what was removed")
	}
}

func TestANamespaceThatCannotBeSeenIsNotDead(t *testing.T) {
	n := newNode(t)
	unmounted, noDirectory := n.mustAttachment("unmounted"), n.mustAttachment("nodir")
	// The name is there, but the namespace is not mounted on it.
	if err := os.Remove(unmounted.Netns); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(unmounted.Netns, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	noDirectory.Netns = filepath.Join(n.netns, "not", "mounted", "ns")
	n.mustSpool(unmounted, noDirectory)

	s := n.mustOpen(n.options())
	s.check()
	if diff := cmp.Diff([]string{"nodir", "unmounted"}, keys(s)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if got := strings.Count(n.log.String(), "mount propagation HostToContainer"); got != 2 {
		t.Errorf("the remedy is told %d times, want once for each:\n%s", got, n.log)
	}
}

func TestAProcessThatEndedTakesItsNamespaceAlong(t *testing.T) {
	n := newNode(t)
	a := n.mustAttachment("a")
	a.Netns = "/proc/4194305/ns/net" // above the largest PID that Linux gives
	n.mustSpool(a)
	if s := n.mustOpen(n.options()); len(s.Snapshot()) != 0 {
		t.Errorf("keys = %v, want none", keys(s))
	}
}

func TestPutGetRemove(t *testing.T) {
	n := newNode(t)
	s := n.mustOpen(n.options())
	a := n.mustAttachment("a")

	wantAPIError(t, s.Put(a), api.CodeTryAgain, "is not in the spool directory")
	wantAPIError(t, s.Put(api.Attachment{}), api.CodeInvalid, "container ID")
	n.mustSpool(a)
	other := a
	other.Master = "eth7"
	wantAPIError(t, s.Put(other), api.CodeInvalid, "different content")
	if len(n.changed) != 0 {
		t.Error("a refused attachment notified")
	}

	before := s.Snapshot()
	for range 2 { // announcing twice changes nothing
		if err := s.Put(a); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(n.changed); got != 1 {
		t.Errorf("notified %d times, want once", got)
	}
	if len(before) != 0 {
		t.Error("an earlier snapshot has changed")
	}
	if got, ok := s.Get(a.Key()); !ok || cmp.Diff(a, got, equateAddrs) != "" {
		t.Errorf("Get = %+v, %t", got, ok)
	}

	if err := api.RemoveSpool(n.spool, a.Key()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // removing what is unknown succeeds
		if err := s.Remove(a.Key()); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := s.Get(a.Key()); ok || len(n.changed) != 2 {
		t.Errorf("after Remove: known %t, notified %d times, want not known and twice", ok, len(n.changed))
	}
}

// A plugin that waited for the agent in vain goes on, and the runtime may add the pod again before its request is served.
func TestRemovalThatComesLateSparesALaterAdd(t *testing.T) {
	n := newNode(t)
	s := n.mustOpen(n.options())
	a := n.mustAttachment("a")
	for _, again := range []string{"eth1", "eth7"} { // as it was before, and changed
		a.Master = again
		n.mustSpool(a)
		if err := s.Remove(a.Key()); err != nil {
			t.Fatal(err)
		}
		if err := s.Put(a); err != nil {
			t.Errorf("the later ADD: %v", err)
		}
		if got, ok := s.Get(a.Key()); !ok || got.Master != again {
			t.Errorf("known %t with master %q, want %q", ok, got.Master, again)
		}
	}
}

func wantAPIError(t *testing.T, err error, code uint, text string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Error(), text) {
		t.Errorf("error = %#v, want code %d and %q", err, code, text)
	}
}

func TestRunFollowsTheSpool(t *testing.T) {
	n := newNode(t)
	s := n.mustOpen(n.options())
	n.run(s)

	a := n.mustAttachment("a")
	n.mustSpool(a) // never announced
	n.wait(s, "a")
	a.Master = "eth9"
	n.mustSpool(a)
	waitFor(t, n, func() bool { got, _ := s.Get(a.Key()); return got.Master == "eth9" })
	if err := api.RemoveSpool(n.spool, a.Key()); err != nil { // a DEL that the agent missed
		t.Fatal(err)
	}
	n.wait(s)
}

func TestRunForgetsAttachmentsWhoseNamespaceHasGone(t *testing.T) {
	for name, end := range map[string]func(*node, api.Attachment){
		"name removed": func(n *node, a api.Attachment) {
			if err := os.Remove(a.Netns); err != nil {
				n.t.Fatal(err)
			}
		},
		"name reused": func(n *node, a api.Attachment) { n.mustNamespace("ns-a", "mnt") },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			a, b := n.mustAttachment("a"), n.mustAttachment("b")
			n.mustSpool(a, b)
			s := n.mustOpen(n.options())
			n.run(s)
			// The set watches the directory once it has followed a file that came after it was started.
			n.mustSpool(n.mustAttachment("c"))
			n.wait(s, "a", "b", "c")
			end(n, a)
			n.wait(s, "b", "c")
			if _, err := api.ReadSpool(n.spool, a.Key()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("spool file: %v, want none", err)
			}
		})
	}
}

// TestRunFindsWithoutEventsWhatHasGone uses a process's own namespace: inotify tells nothing of /proc.
func TestRunFindsWithoutEventsWhatHasGone(t *testing.T) {
	n := newNode(t)
	process := exec.Command("sleep", "60")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	a := n.mustAttachment("a")
	a.Netns = fmt.Sprintf("/proc/%d/ns/net", process.Process.Pid)
	n.mustSpool(a)
	opts := n.options()
	opts.Interval = 5 * time.Millisecond
	s := n.mustOpen(opts)
	n.run(s)
	n.wait(s, "a")
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = process.Wait() // it was killed
	n.wait(s)
}

func TestCheckForgetsWhatIsNotSpooledAnyMore(t *testing.T) {
	n := newNode(t)
	a := n.mustAttachment("a")
	n.mustSpool(a)
	s := n.mustOpen(n.options()) // it does not run, so no event tells it
	if err := api.RemoveSpool(n.spool, a.Key()); err != nil {
		t.Fatal(err)
	}
	s.check()
	if got := keys(s); len(got) != 0 {
		t.Errorf("keys = %v, want none", got)
	}
	if len(n.changed) != 1 {
		t.Errorf("notified %d times, want once", len(n.changed))
	}
}

func TestALostSpoolDirectoryChangesNothing(t *testing.T) {
	n := newNode(t)
	n.mustSpool(n.mustAttachment("a"))
	s := n.mustOpen(n.options())
	if err := os.RemoveAll(n.spool); err != nil {
		t.Fatal(err)
	}
	s.check()
	if diff := cmp.Diff([]string{"a"}, keys(s)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

func waitFor(t *testing.T, n *node, condition func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !condition() {
		select {
		case <-n.changed:
		case <-deadline:
			t.Fatal("the condition did not come true")
		}
	}
}

// syncBuffer is a log that several goroutines write.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
