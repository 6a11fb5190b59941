// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/sluice-lb/sluice/daemon/api"
)

// The error codes of STATUS (CNI SPEC, "Error").
const (
	codeUnavailable uint = 50 // no ADD would succeed
	codeLimited     uint = 51 // nor may the attachments that there are be served
)

// status is CNI's STATUS. It tells what ADD would: a network that does not require the agent is available without it,
// and a node must not become unready for a network that promised not to need it.
//
// Only an agent that answers can say that its datapath is not programmed, and thus that existing attachments may not be
// served. One that is down says nothing about them: its programs stay in the kernel.
func (p *plugin) status(args *skel.CmdArgs) error {
	ctx, cancel := context.WithTimeout(context.Background(), statusTime)
	defer cancel()
	s := newSubject(args)
	conf, err := p.parse(s, args)
	if err != nil {
		return err
	}
	err = api.NewClient(p.socket).Ready(ctx)
	var answer *api.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, api.ErrUnreachable) && !conf.Required:
		p.log.Warn("attachments would wait for the agent", "network", conf.Name, "err", err)
		return nil
	case errors.Is(err, api.ErrUnreachable):
		return s.errorf(codeUnavailable, "%v, and the network requires it: see that sluiced runs on this node", err)
	case !errors.As(err, &answer):
		return s.errorf(codeUnavailable, "%v: see the log of sluiced on this node", err)
	case answer.Code == types.ErrIncompatibleCNIVersion:
		return agentError(s, err)
	case p.attached(conf.Name):
		return s.errorf(codeLimited, "the agent is not ready, and attachments of the network may not be served: %v: "+
			"see the log of sluiced on this node", answer)
	}
	return s.errorf(codeUnavailable, "the agent is not ready: %v: see the log of sluiced on this node", answer)
}

// attached tells whether the network has attachments on this node. A file that does not tell its network counts.
func (p *plugin) attached(network string) bool {
	keys, err := api.SpoolKeys(p.spoolDir)
	if err != nil {
		p.log.Warn("attachments are not known", "err", err)
	}
	for _, k := range keys {
		if a, err := api.ReadSpool(p.spoolDir, k); err != nil || a.Network == network {
			return true
		}
	}
	return false
}
