// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// convertService converts a Service of ours.
func (o Options) convertService(svc *corev1.Service) (*lb.Service, []lb.Issue) {
	request, ours := o.Request(svc)
	if !ours {
		return nil, nil
	}
	converted, issues := request.service()
	return &converted, issues
}

// service converts a Service; giveVIPs adds its VIPs.
func (r Request) service() (lb.Service, []lb.Issue) {
	out := lb.Service{Namespace: r.Service.Namespace, Name: r.Service.Name, UID: string(r.Service.UID)}
	out.Clients, out.Local = r.Clients, r.Local
	if created := r.Service.CreationTimestamp; !created.IsZero() { // files need not say
		out.Created = created.Unix()
	}
	for _, port := range r.Service.Spec.Ports {
		proto, ok := protocol(port.Protocol)
		if !ok || !validPort(port.Port) {
			continue
		}
		out.Ports = append(out.Ports, lb.ServicePort{Name: port.Name, Protocol: proto, Port: uint16(port.Port)})
	}
	return out, r.Issues
}

func validPort(port int32) bool { return port >= 1 && port <= 65535 }

// ParseVIPs reads AnnotationVIPs. No text means no VIPs. Addresses come sorted, each once.
func ParseVIPs(text string) (map[string][]netip.Addr, error) {
	if text == "" {
		return nil, nil
	}
	var vips map[string][]netip.Addr
	if err := json.Unmarshal([]byte(text), &vips); err != nil {
		return nil, fmt.Errorf("read %q as a map from network to addresses: %w", text, err)
	}
	for network, addrs := range vips {
		for _, addr := range addrs {
			if !addr.IsValid() || addr.Zone() != "" {
				return nil, fmt.Errorf("read %q: network %q has an empty address, or one with a zone", text, network)
			}
		}
		slices.SortFunc(addrs, netip.Addr.Compare)
		vips[network] = slices.Compact(addrs)
	}
	return vips, nil
}

// FormatVIPs writes AnnotationVIPs: what ParseVIPs reads. No VIPs give no text.
func FormatVIPs(vips map[string][]netip.Addr) string {
	if len(vips) == 0 {
		return ""
	}
	text, err := json.Marshal(vips)
	if err != nil {
		panic(err) // a map of strings and addresses always has a JSON form
	}
	return string(text)
}
