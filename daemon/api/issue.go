// SPDX-License-Identifier: Apache-2.0

package api

import "net/netip"

// Issue is something that is wrong with one object or interface now: a row of `sluicectl get issues`.
type Issue struct {
	Object  string `json:"object"`  // kind and name: "Service default/web", "Interface eth1"
	Reason  string `json:"reason"`  // CamelCase, stable
	Message string `json:"message"` // names the field and the remedy
	// VIP is the one that the issue is about, unless it is about none, or about several.
	VIP netip.Addr `json:"vip,omitzero"`
}
