// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"fmt"
	"net/netip"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/sluice-lb/sluice/internal/ether"
)

// Attachment is one interface of a pod on one network, as the pod's network-status tells it.
type Attachment struct {
	Network   string       // namespace/name of the NAD; for the cluster's default network the name of a CNI configuration
	Interface string       // in the pod: "net1"
	Addrs     []netip.Addr // in the order of the status; text that is no address is left out
	MAC       ether.MAC    // zero if the status has none
}

// ParseNetworkStatus reads the annotation k8s.v1.cni.cncf.io/network-status. No text means that Multus has not attached
// the pod yet. Addresses may carry a prefix length (the specification's examples do, Multus does not); keys that are
// not read here may hold anything, such as the gateway "<nil>" of Multus 4.
func ParseNetworkStatus(text string) ([]Attachment, error) {
	if text == "" {
		return nil, nil
	}
	var status []struct {
		Name      string   `json:"name"`
		Interface string   `json:"interface"`
		IPs       []string `json:"ips"`
		MAC       string   `json:"mac"`
	}
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		return nil, fmt.Errorf("read annotation %s: %w", nadv1.NetworkStatusAnnot, err)
	}
	attachments := make([]Attachment, 0, len(status))
	for _, entry := range status {
		attachment := Attachment{Network: entry.Name, Interface: entry.Interface}
		for _, ip := range entry.IPs {
			if addr, ok := parseIP(ip); ok {
				attachment.Addrs = append(attachment.Addrs, addr)
			}
		}
		if mac, err := ether.ParseMAC(entry.MAC); err == nil {
			attachment.MAC = mac
		}
		attachments = append(attachments, attachment)
	}
	return attachments, nil
}

func parseIP(text string) (netip.Addr, bool) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return prefix.Addr().Unmap(), true
	}
	addr, err := netip.ParseAddr(text)
	return addr.Unmap(), err == nil && addr.Zone() == ""
}
