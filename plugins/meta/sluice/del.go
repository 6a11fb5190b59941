// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io/fs"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/sluice-lb/sluice/daemon/api"
)

// del is CNI's DEL. It depends on nothing but container ID and interface name, because runtimes repeat it, strip the
// configuration, and call it when everything else is gone. It always succeeds: libcni stops at the first error, and the
// plugins before us would leak links and addresses.
func (p *plugin) del(args *skel.CmdArgs) error {
	k := keyOf(args)
	spooled, err := api.ReadSpool(p.spoolDir, k)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.log.Warn("spool file is not usable", "err", err)
	}
	if err := api.RemoveSpool(p.spoolDir, k); err != nil {
		p.log.Warn("spool file stays", "err", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), delTime)
	defer cancel()
	if err := api.NewClient(p.socket).Remove(ctx, k); err != nil {
		p.log.Warn("the agent learns of the removal from the spool", "err", err)
	}
	if err := removeRouting(args.Netns, args.IfName, spooled); err != nil {
		p.log.Warn("reply routing stays", "ifname", args.IfName, "err", err)
	}
	return nil
}

// removeRouting removes the reply routing, if the pod's network namespace is still there. The spooled attachment may be
// empty. A path that means another namespace by now, above all the host's (a reused process ID), is left alone.
func removeRouting(netns, ifName string, spooled api.Attachment) error {
	if netns == "" {
		return nil
	}
	inode, err := namespaceInode(netns)
	if err != nil {
		return nil // it is gone
	}
	hostInode, err := namespaceInode("/proc/self/ns/net")
	if err != nil || inode == hostInode || spooled.NetnsInode != 0 && spooled.NetnsInode != inode {
		return err
	}
	err = ns.WithNetNSPath(netns, func(host ns.NetNS) error {
		link, err := readLink(ifName, host)
		if errors.Is(err, errNoLink) {
			err = nil
		}
		return errors.Join(err, removeReplies(link.index))
	})
	if _, gone := errors.AsType[ns.NSPathNotExistErr](err); gone {
		return nil
	}
	return err
}
