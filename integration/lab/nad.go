// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// NAD is a NetworkAttachmentDefinition of namespace default: macvlan in bridge mode on Card with host-local, and behind
// them sluice, if it has VIPs.
type NAD struct {
	Name   string
	Ranges []Range  // one set, from which each pod gets one address
	VIPs   []string // "192.168.20.240", or "192.168.20.240-192.168.20.250"
}

// Range is what host-local gives to pods. A field of "" is left out.
type Range struct {
	Subnet  string `json:"subnet"`
	Start   string `json:"rangeStart,omitempty"`
	End     string `json:"rangeEnd,omitempty"`
	Gateway string `json:"gateway,omitempty"`
}

// YAML gives the manifest.
func (n NAD) YAML() string {
	type object = map[string]any
	plugins := []object{{
		"type": "macvlan", "master": Card, "mode": "bridge",
		"ipam": object{"type": "host-local", "ranges": [][]Range{n.Ranges}},
	}}
	if len(n.VIPs) > 0 {
		plugins = append(plugins, object{"type": "sluice", "vips": n.VIPs})
	}
	config, err := json.MarshalIndent(object{"cniVersion": "1.0.0", "name": n.Name, "plugins": plugins}, "", "  ")
	if err != nil {
		panic(err) // strings alone
	}
	manifest, err := yaml.Marshal(nadv1.NetworkAttachmentDefinition{
		TypeMeta:   metav1.TypeMeta{APIVersion: nadv1.SchemeGroupVersion.String(), Kind: "NetworkAttachmentDefinition"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: n.Name},
		Spec:       nadv1.NetworkAttachmentDefinitionSpec{Config: string(config)},
	})
	if err != nil {
		panic(err) // likewise
	}
	return string(manifest)
}
