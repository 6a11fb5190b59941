// SPDX-License-Identifier: Apache-2.0

package links

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// journal collects what the kernel says between two lists. A list tells how things are, whatever the order of messages;
// what it cannot tell is that an interface was away in between, or that it is another one under the same number.
type journal struct {
	changed chan struct{} // holds one token while there is something to take

	mu   sync.Mutex
	news news // guarded by mu
}

// news is what two lists do not show.
type news struct {
	lost    map[int]bool // indexes of interfaces that were down, gone, or moved: see lostLink
	touched map[int]bool // those that anything was said of
	all     bool         // messages were missed: it may have been any of them
}

func newJournal() *journal { return &journal{changed: make(chan struct{}, 1)} }

// read notes the socket's messages until it fails. A burst that overruns the socket is no failure: what it said is made up
// for by a list.
func (j *journal) read(socket *nl.NetlinkSocket) error {
	for {
		messages, _, err := socket.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			j.missed()
		case err != nil:
			return fmt.Errorf("receive changes of links and addresses: %w", err)
		default:
			j.note(messages)
		}
	}
}

// take gives the news, which are none afterwards.
func (j *journal) take() news {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := j.news
	j.news = news{}
	return n
}

func (j *journal) missed() {
	j.mu.Lock()
	j.news.all = true
	j.mu.Unlock()
	j.wake()
}

func (j *journal) note(messages []syscall.NetlinkMessage) {
	j.mu.Lock()
	for _, m := range messages {
		index, ok := linkOf(m)
		if !ok {
			continue
		}
		if j.news.touched == nil {
			j.news.touched, j.news.lost = map[int]bool{}, map[int]bool{}
		}
		j.news.touched[index] = true
		if lostLink(m) {
			j.news.lost[index] = true
		}
	}
	j.mu.Unlock()
	j.wake()
}

func (j *journal) wake() {
	select {
	case j.changed <- struct{}{}:
	default:
	}
}

// linkOf gives the interface that a message is about, if it is about one. A bridge tells of its ports in messages of another
// family.
func linkOf(m syscall.NetlinkMessage) (index int, ok bool) {
	if len(m.Data) < unix.SizeofIfInfomsg || m.Header.Type != unix.RTM_NEWLINK && m.Header.Type != unix.RTM_DELLINK {
		return 0, false
	}
	info := nl.DeserializeIfInfomsg(m.Data)
	return int(info.Index), info.Family == unix.AF_UNSPEC
}

// lostLink tells whether a message about an interface says that it is down, without carrier, or gone: deleted, or moved to
// another network namespace; or that neighbours must learn anew where it is, because a bond uses another card, or a virtual
// machine runs on another host.
func lostLink(m syscall.NetlinkMessage) bool {
	const passing = unix.IFF_UP | unix.IFF_RUNNING
	return m.Header.Type == unix.RTM_DELLINK || nl.DeserializeIfInfomsg(m.Data).Flags&passing != passing ||
		moved(m.Data[unix.SizeofIfInfomsg:])
}

// moved tells whether the attributes of a link name an event that the kernel announces its own addresses for (IFLA_EVENT).
// The kernel writes none that cannot be read.
func moved(attributes []byte) bool {
	all, err := nl.ParseRouteAttr(attributes)
	if err != nil {
		return false
	}
	for _, a := range all {
		if a.Attr.Type == unix.IFLA_EVENT && len(a.Value) == 4 {
			event := binary.NativeEndian.Uint32(a.Value)
			return event == unix.IFLA_EVENT_BONDING_FAILOVER || event == unix.IFLA_EVENT_NOTIFY_PEERS
		}
	}
	return false
}

// epochs numbers what happens to interfaces; see lb.Link.
type epochs struct {
	last uint64
	of   map[int]uint64 // by index
}

// stamp gives each of the listed interfaces its epoch.
func (e *epochs) stamp(links []lb.Link, heard news) {
	of := make(map[int]uint64, len(links))
	for i := range links {
		l := &links[i]
		epoch, known := e.of[l.Index]
		if !known || heard.all || heard.lost[l.Index] {
			e.last++
			epoch = e.last
		}
		l.Epoch, of[l.Index] = epoch, epoch
	}
	e.of = of
}
