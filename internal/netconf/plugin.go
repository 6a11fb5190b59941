// SPDX-License-Identifier: Apache-2.0

// Package netconf owns the configuration that users write: the plugin chain of a NetworkAttachmentDefinition, with the
// "sluice" element in it. It parses and judges text; it must not look at the kernel, the API server or a clock, because
// plugin, agent and controller must all come to the same judgement.
package netconf

import (
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// PluginType is the "type" of Sluice's element in a chain, and the name of the plugin's binary.
const PluginType = "sluice"

// Plugin is Sluice's element as the runtime gives it to the plugin on standard input.
type Plugin struct {
	types.PluginConf
	Settings

	// Previous is prevResult in the newest version's form, nil if there is none. PrevResult holds it in the form of the
	// configuration's own version.
	Previous *current.Result
}

// ParsePlugin reads what the runtime gives to the plugin. Keys that nobody knows are warnings, so that an option of a
// newer version does not break attachments here; the error tells all bad values of known keys. A missing cniVersion
// means 0.1.0, as the CNI specification has it.
func ParsePlugin(stdin []byte) (*Plugin, []string, error) {
	var element object
	if err := json.Unmarshal(stdin, &element); err != nil {
		return nil, nil, fmt.Errorf("parse the network configuration: %w", err)
	}
	p := &Plugin{}
	if err := json.Unmarshal(stdin, &p.PluginConf); err != nil {
		return nil, nil, fmt.Errorf("parse the network configuration: %w", err)
	}
	if p.CNIVersion == "" {
		p.CNIVersion = "0.1.0"
	}
	settings, warnings, err := parseSettings(element)
	if err != nil {
		return nil, warnings, err
	}
	p.Settings = settings
	if err := version.ParsePrevResult(&p.PluginConf); err != nil {
		return nil, warnings, fmt.Errorf("%q: %w", "prevResult", err)
	}
	if p.PrevResult == nil {
		return p, warnings, nil
	}
	if p.Previous, err = current.NewResultFromResult(p.PrevResult); err != nil {
		return nil, warnings, fmt.Errorf("%q: %w", "prevResult", err)
	}
	return p, warnings, nil
}
