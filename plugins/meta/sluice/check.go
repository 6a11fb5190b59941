// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/sluice-lb/sluice/daemon/api"
)

// codeDrift is the error code of CHECK when the attachment is no longer as ADD has left it. CNI gives plugins the codes
// from 100 on.
const codeDrift uint = 100

// remake is the remedy for drift: nothing short of a new sandbox runs ADD again.
const remake = "delete the pod, so that it is made anew"

// check is CNI's CHECK. It compares the kernel, the spool and the agent with what ADD has left.
func (p *plugin) check(args *skel.CmdArgs) error {
	ctx, cancel := context.WithTimeout(context.Background(), addTime)
	defer cancel()
	s := newSubject(args)
	conf, err := p.parseChained(s, args)
	if err != nil {
		return err
	}
	spooled, err := api.ReadSpool(p.spoolDir, keyOf(args))
	if errors.Is(err, fs.ErrNotExist) {
		return s.errorf(codeDrift, "the attachment is not in %s: %s", p.spoolDir, remake)
	}
	if err != nil {
		return s.errorf(codeDrift, "%v: %s", err, remake)
	}
	link, err := readPodLink(s, args)
	if err != nil {
		return err
	}
	if link.mac != spooled.MAC {
		return s.errorf(codeDrift, "the interface has MAC %s, and had %s at ADD: let no plugin after sluice change it, "+
			"and %s", link.mac, spooled.MAC, remake)
	}
	if link.parent != spooled.MasterIndex {
		return s.errorf(codeDrift, "the interface's master has ifindex %d, and had %d (%s) at ADD: %s",
			link.parent, spooled.MasterIndex, spooled.Master, remake)
	}
	if conf.ReplyRouting {
		if err := checkRouting(args, spooled, link.index); err != nil {
			return s.errorf(codeDrift, "reply routing: %v: %s", err, remake)
		}
	}
	return p.checkAgent(ctx, s, spooled)
}

func checkRouting(args *skel.CmdArgs, spooled api.Attachment, link int) error {
	return ns.WithNetNSPath(args.Netns, func(ns.NetNS) error {
		for _, r := range replies(spooled, link) {
			if err := r.check(); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkAgent asks whether the agent holds the attachment as it is spooled.
func (p *plugin) checkAgent(ctx context.Context, s subject, spooled api.Attachment) error {
	held, err := api.NewClient(p.socket).Get(ctx, spooled.Key())
	var answer *api.Error
	if errors.As(err, &answer) && answer.Code == types.ErrUnknownContainer {
		return s.errorf(codeDrift, "%v, though it is spooled: see the log of sluiced on this node", answer)
	}
	if err != nil {
		return agentError(s, err)
	}
	if !sameFacts(held, spooled) {
		return s.errorf(codeDrift, "the agent holds another version of the attachment than the spool: "+
			"restart sluiced on this node")
	}
	return nil
}

// sameFacts compares what the datapath works with. It leaves the rest alone, because an agent of another version may
// not know all that the plugin spools.
func sameFacts(a, b api.Attachment) bool {
	return a.NetnsInode == b.NetnsInode && a.MAC == b.MAC && a.MasterIndex == b.MasterIndex &&
		slices.Equal(a.Addresses, b.Addresses)
}
