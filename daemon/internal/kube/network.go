// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"errors"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/netconf"
)

// Network is a NAD of ours with all that its chain says.
type Network struct {
	lb.Network
	Settings netconf.Settings
}

// Object names the NAD as issues do.
func (n Network) Object() string { return "NetworkAttachmentDefinition " + n.Name }

// ParseNetworks reads the NADs whose chain holds sluice, sorted by name. One whose chain cannot be used is not among
// them, and an issue says why; a NAD that is not ours is passed over in silence.
func (o Objects) ParseNetworks() ([]Network, []lb.Issue) {
	var networks []Network
	var issues []lb.Issue
	for _, nad := range o.Networks {
		network, found := parseNetwork(nad)
		issues = append(issues, found...)
		if network != nil {
			networks = append(networks, *network)
		}
	}
	return networks, issues
}

func parseNetwork(nad *nadv1.NetworkAttachmentDefinition) (*Network, []lb.Issue) {
	chain, warnings, err := netconf.ParseChain([]byte(nad.Spec.Config))
	if errors.Is(err, netconf.ErrNotOurs) {
		return nil, nil
	}
	var issues []lb.Issue
	refuse := func(reason, text string) {
		issues = append(issues, lb.Issue{
			Object: "NetworkAttachmentDefinition " + nad.Namespace + "/" + nad.Name, Reason: reason,
			Message: "spec.config: " + strings.ReplaceAll(text, "\n", "; "),
		})
	}
	for _, warning := range warnings {
		refuse(ReasonNetworkWarning, warning)
	}
	if err != nil {
		refuse(ReasonInvalidNetwork, err.Error())
		return nil, issues
	}
	return &Network{
		Network: lb.Network{
			Name: nad.Namespace + "/" + nad.Name, Segment: chain.Segment,
			Master: chain.Master, Kind: chain.Kind, Mode: chain.Mode,
		},
		Settings: chain.Settings,
	}, issues
}
