// SPDX-License-Identifier: Apache-2.0

package links

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/daemon/api"
	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// Masters knows on which of the node's interfaces each pod's interface lies now. What was true at ADD may not be: when a
// master is deleted, the kernel deletes what lies above it, and gives the number to the next interface; when it is moved to
// another network namespace and back, it may come back under another number. It is not safe for concurrent use.
type Masters struct {
	log  *slog.Logger
	look func(api.Attachment) (master int, err error)
	node *os.File // the network namespace that masters are in

	links []lb.Link // of the last Resolve
	found map[api.Key]found
}

// found is what the kernel said of a pod's interface.
type found struct {
	netns  uint64 // inode: an attachment of the same key may be another pod's
	atADD  int    // master
	master int    // ifindex; 0 if it has none on this node
	epoch  uint64 // of the master
	err    string // why the kernel did not say
}

// OpenMasters takes the calling thread's network namespace for the node's. Close lets go of it.
func OpenMasters(logger *slog.Logger) (*Masters, error) {
	node, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the node's network namespace: %w", err)
	}
	m := &Masters{log: logger, node: node, found: map[api.Key]found{}}
	m.look = m.ask
	return m, nil
}

// Close lets go of the node's network namespace.
func (m *Masters) Close() error { return m.node.Close() }

// Resolve gives the attachments with the MasterIndex that each has now: 0 if it has no master on this node any more. The
// kernel is asked about an attachment that is new, or whose master's epoch is; about one without a master, when the links
// are others. An attachment that it cannot be asked about keeps the index that it had at ADD, and the log says why.
func (m *Masters) Resolve(links []lb.Link, attachments []api.Attachment) []api.Attachment {
	epochs := make(map[int]uint64, len(links))
	for _, l := range links {
		epochs[l.Index] = l.Epoch
	}
	same := reflect.DeepEqual(links, m.links)
	was := m.found
	m.links, m.found = links, make(map[api.Key]found, len(attachments))
	out := slices.Clone(attachments)
	for i, a := range attachments {
		f, known := was[a.Key()]
		fresh := known && f.err == "" && f.netns == a.NetnsInode && f.atADD == a.MasterIndex
		if epoch, there := epochs[f.master]; !fresh || there && epoch != f.epoch || !there && !same {
			f = m.resolve(a, f.err)
			f.epoch = epochs[f.master]
		}
		m.found[a.Key()] = f
		out[i].MasterIndex = f.master
	}
	return out
}

func (m *Masters) resolve(a api.Attachment, before string) found {
	f := found{netns: a.NetnsInode, atADD: a.MasterIndex, master: a.MasterIndex}
	master, err := m.look(a)
	switch {
	case err == nil:
		f.master = master
	case errors.Is(err, os.ErrNotExist): // its end is noticed elsewhere
		f.err = err.Error()
	default:
		f.err = err.Error()
		if f.err != before {
			m.log.Warn("the master of a pod's interface is not known, and taken for the one at ADD", "pod", a.Pod.String(),
				"ifname", a.IfName, "err", err)
		}
	}
	return f
}

// ask reads the pod's interface in its network namespace. A process in the pod may have given it another name, or another
// MAC, and the frames that the datapath knows it by still have the latter; so either will do.
func (m *Masters) ask(a api.Attachment) (int, error) {
	pod, err := netns.GetFromPath(a.Netns)
	if err != nil {
		return 0, err
	}
	defer pod.Close()
	nl, err := netlinksafe.NewHandleAt(pod, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("open netlink in %s: %w", a.Netns, err)
	}
	defer nl.Close()
	links, err := nl.LinkList()
	if err != nil {
		return 0, fmt.Errorf("list the interfaces in %s: %w", a.Netns, err)
	}
	i := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Name == a.IfName })
	if i < 0 {
		i = slices.IndexFunc(links, func(l netlink.Link) bool {
			return l.Type() == a.Kind && slices.Equal(l.Attrs().HardwareAddr, a.MAC[:])
		})
	}
	if i < 0 {
		return 0, nil
	}
	// The pod's namespace numbers those of the interfaces below its own; listing them has made sure that it does.
	node, err := nl.GetNetNsIdByFd(int(m.node.Fd()))
	if err != nil {
		return 0, fmt.Errorf("identify the node's network namespace in %s: %w", a.Netns, err)
	}
	if lower := links[i].Attrs(); node >= 0 && lower.NetNsID == node {
		return lower.ParentIndex, nil
	}
	return 0, nil
}
