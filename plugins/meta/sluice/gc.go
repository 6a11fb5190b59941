// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/sluice-lb/sluice/daemon/api"
)

// gc is CNI's GC. It removes the network's attachments that the runtime does not list, and no other network's. It needs
// no agent, because the agent follows the spool. It removes as much as it can, and tells all that stays.
func (p *plugin) gc(args *skel.CmdArgs) error {
	s := newSubject(args)
	// Not our own keys: a bad value among them is no reason to keep what is left over.
	var conf types.PluginConf
	if err := json.Unmarshal(args.StdinData, &conf); err != nil {
		return s.errorf(types.ErrDecodingFailure, "parse the network configuration: %v", err)
	}
	// Absent, or null, is not empty: a runtime that tells nothing has not said that every attachment is stale.
	remove := conf.ValidAttachments != nil
	valid := make(map[api.Key]bool, len(conf.ValidAttachments))
	for i, v := range conf.ValidAttachments {
		if v.ContainerID == "" || v.IfName == "" {
			return s.errorf(types.ErrInvalidNetworkConfig, "\"cni.dev/valid-attachments\" lacks \"containerID\" or "+
				"\"ifname\" in entry %d: nothing is removed, because a living attachment may be meant", i)
		}
		valid[api.Key{ContainerID: v.ContainerID, IfName: v.IfName}] = true
	}
	keys, err := api.SpoolKeys(p.spoolDir)
	errs := []error{err}
	for _, k := range keys {
		if !valid[k] {
			errs = append(errs, p.collect(k, conf.Name, remove))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return s.errorf(types.ErrIOFailure, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}

// collect removes an attachment, if it is the network's and shall go. A file that does not tell its network stays.
func (p *plugin) collect(k api.Key, network string, remove bool) error {
	a, err := api.ReadSpool(p.spoolDir, k)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // a DEL was faster
	case err != nil:
		return fmt.Errorf("%w: remove %s if its pod is gone, or else the pod",
			err, filepath.Join(p.spoolDir, api.SpoolName(k)))
	case a.Network != network || !remove:
		return nil
	}
	err = errors.Join(api.RemoveSpool(p.spoolDir, k), removeRouting(a.Netns, a.IfName, a))
	if err != nil {
		return fmt.Errorf("remove attachment %s: %w", k, err)
	}
	p.log.Info("attachment removed", "pod", a.Pod.String(), "ifname", k.IfName, "container", k.ContainerID)
	return nil
}
