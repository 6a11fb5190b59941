// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// LastValid keeps networks in force whose NAD is edited into something that cannot be used: until it is corrected, the last
// version applies that could be. It remembers what Restore has seen, and nothing beyond the process. The zero value is
// ready, and may be used from several goroutines.
type LastValid struct {
	mu   sync.Mutex
	nads map[nadLife]*seenNAD // guarded by mu
}

// nadLife is a NAD from its creation to its deletion. Those of files have no UID.
type nadLife struct {
	namespace, name string
	uid             types.UID
}

// seenNAD is what is known of one NAD.
type seenNAD struct {
	current *nadv1.NetworkAttachmentDefinition // as it was seen last
	valid   *nadv1.NetworkAttachmentDefinition // the last of our networks that it was; nil if it never was one
	wrong   string                             // what keeps current from being used, where valid applies instead
}

// Restore gives the objects with the last valid version of each NAD whose present one cannot be used, and an issue on it.
func (v *LastValid) Restore(o Objects) Objects {
	v.mu.Lock()
	defer v.mu.Unlock()
	known := make(map[nadLife]*seenNAD, len(o.Networks))
	changed := false
	for i, nad := range o.Networks {
		life := nadLife{nad.Namespace, nad.Name, nad.UID}
		seen := v.nads[life]
		if seen == nil {
			seen = &seenNAD{}
		}
		if seen.current != nad {
			seen.see(nad)
		}
		known[life] = seen
		if seen.wrong == "" {
			continue
		}
		if !changed {
			o.Networks, o.Issues, changed = slices.Clone(o.Networks), slices.Clone(o.Issues), true
		}
		o.Networks[i] = seen.valid
		o.Issues = append(o.Issues, lb.Issue{
			Object: "NetworkAttachmentDefinition " + nad.Namespace + "/" + nad.Name, Reason: ReasonInvalidNetwork,
			Message: seen.wrong + ": correct it; what it said before applies until then, or until the agent or the controller restarts",
		})
	}
	v.nads = known
	return o
}

// see takes in another version.
func (s *seenNAD) see(nad *nadv1.NetworkAttachmentDefinition) {
	s.current, s.wrong = nad, ""
	network, issues := parseNetwork(nad)
	switch at := slices.IndexFunc(issues, func(i lb.Issue) bool { return i.Reason == ReasonInvalidNetwork }); {
	case network != nil:
		s.valid = nad
	case s.valid == nil:
	case at >= 0:
		s.wrong = issues[at].Message
	default: // not ours any more, unless nobody can tell
		var any any
		if err := json.Unmarshal([]byte(nad.Spec.Config), &any); err != nil {
			s.wrong = fmt.Sprintf("spec.config: parse the plugin chain: %v", err)
			return
		}
		s.valid = nil
	}
}
