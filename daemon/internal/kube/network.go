// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
	"github.com/sluice-lb/sluice/internal/netconf"
)

// Network is a NAD of ours with all that its chain says.
type Network struct {
	lb.Network
	Settings netconf.Settings
	Created  time.Time // of NADs that disagree, the older one's settings apply
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
	return networks, append(issues, settle(networks)...)
}

// settle gives networks that belong together the same settings, those of the oldest of them: NADs of one segment watch
// over it alike, and NADs that share VIPs give them to the same Services. Teams copy NADs, and a copy must not open or
// close what another has.
func settle(networks []Network) []lb.Issue {
	oldest := slices.SortedStableFunc(slices.Values(networks), func(a, b Network) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
	})
	var issues []lb.Issue
	for i := range networks {
		n := &networks[i]
		follow := func(key string, together func(Network) bool, same func(first, own netconf.Settings) bool, adopt func(netconf.Settings)) {
			first := oldest[slices.IndexFunc(oldest, func(o Network) bool {
				return o.Name == n.Name || o.Segment == n.Segment && together(o)
			})]
			own := n.Settings
			adopt(first.Settings)
			if same(first.Settings, own) {
				return
			}
			issues = append(issues, lb.Issue{Object: n.Object(), Reason: ReasonSettingsDiffer, Message: fmt.Sprintf(
				"spec.config: %q differs from that of %s on segment %s, which is older and applies: make them equal",
				key, first.Name, n.Segment)})
		}
		onSegment := func(Network) bool { return true }
		ofPool := func(o Network) bool { return o.Settings.VIPs.Overlaps(n.Settings.VIPs) }
		follow("bfd", onSegment, func(a, b netconf.Settings) bool {
			return b.BFD == nil || a.BFD != nil && *a.BFD == *b.BFD
		}, func(s netconf.Settings) { n.Settings.BFD = s.BFD })
		follow("allowedNamespaces", ofPool, func(a, b netconf.Settings) bool {
			return (a.AllowedNamespaces == nil) == (b.AllowedNamespaces == nil) &&
				slices.Equal(a.AllowedNamespaces, b.AllowedNamespaces)
		}, func(s netconf.Settings) { n.Settings.AllowedNamespaces = s.AllowedNamespaces })
		follow("sharingAcrossNamespaces", ofPool, func(a, b netconf.Settings) bool {
			return a.SharingAcrossNamespaces == b.SharingAcrossNamespaces
		}, func(s netconf.Settings) { n.Settings.SharingAcrossNamespaces = s.SharingAcrossNamespaces })
	}
	return issues
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
		Created:  nad.CreationTimestamp.Time,
	}, issues
}

// convertNetwork converts a NAD of ours.
func convertNetwork(nad *nadv1.NetworkAttachmentDefinition) (*lb.Network, []lb.Issue) {
	network, issues := parseNetwork(nad)
	if network == nil {
		return nil, issues
	}
	return &network.Network, issues
}
