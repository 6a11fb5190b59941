// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"slices"
	"strings"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// TestAnEditThatCannotBeUsedTakesNothingAway edits one NAD, and looks at the network that is in force, and at the issue.
func TestAnEditThatCannotBeUsedTakesNothingAway(t *testing.T) {
	const (
		eth1   = `{"plugins": [{"type": "macvlan", "master": "eth1"}, {"type": "sluice", "vips": ["10.0.0.1"]}]}`
		eth2   = `{"plugins": [{"type": "macvlan", "master": "eth2"}, {"type": "sluice", "vips": ["10.0.0.1"]}]}`
		bad    = `{"plugins": [{"type": "macvlan", "master": "eth1"}, {"type": "sluice", "vips": ["10.0.0"]}]}`
		broken = `{"plugins": [`
		others = `{"plugins": [{"type": "macvlan", "master": "eth1"}]}`
	)
	const remedy = "correct it; what it said before applies"
	type edit struct {
		uid, config string // no config: deleted
		want        string // the master of the network; empty: there is none
		issues      []string
	}
	for name, edits := range map[string][]edit{
		"valid again, as another":    {{"1", eth1, "eth1", nil}, {"1", bad, "eth1", []string{remedy}}, {"1", eth2, "eth2", nil}},
		"invalid twice":              {{"1", eth1, "eth1", nil}, {"1", bad, "eth1", []string{remedy}}, {"1", broken, "eth1", []string{remedy}}},
		"no JSON any more":           {{"1", eth1, "eth1", nil}, {"1", broken, "eth1", []string{"spec.config: parse the plugin chain"}}},
		"never valid":                {{"1", bad, "", []string{`"10.0.0"`}}, {"1", broken, "", nil}},
		"not ours any more":          {{"1", eth1, "eth1", nil}, {"1", others, "", nil}, {"1", bad, "", []string{`"10.0.0"`}}},
		"another of its name":        {{"1", eth1, "eth1", nil}, {"2", bad, "", []string{`"10.0.0"`}}},
		"gone meanwhile, in a file":  {{"", eth1, "eth1", nil}, {"", "", "", nil}, {"", bad, "", []string{`"10.0.0"`}}},
		"edited in a file":           {{"", eth1, "eth1", nil}, {"", bad, "eth1", []string{remedy}}},
		"unused, and the same again": {{"1", eth1, "eth1", nil}, {"1", bad, "eth1", []string{remedy}}, {"1", bad, "eth1", []string{remedy}}},
	} {
		t.Run(name, func(t *testing.T) {
			var valid kube.LastValid
			for i, e := range edits {
				var objects kube.Objects
				if e.config != "" {
					objects.Networks = []*nadv1.NetworkAttachmentDefinition{{
						ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "one", UID: types.UID(e.uid)},
						Spec:       nadv1.NetworkAttachmentDefinitionSpec{Config: e.config},
					}}
				}
				given := slices.Clone(objects.Networks)
				for range 2 { // the second time, the same object is given
					got := valid.Restore(objects).Snapshot(kube.Options{})
					master := ""
					if len(got.Networks) > 0 {
						master = got.Networks[0].Master
					}
					if master != e.want {
						t.Errorf("edit %d: master %q, want %q", i+1, master, e.want)
					}
					if len(got.Issues) != len(e.issues) {
						t.Fatalf("edit %d: issues %v, want %d", i+1, got.Issues, len(e.issues))
					}
					for j, text := range e.issues {
						if issue := got.Issues[j]; issue.Reason != kube.ReasonInvalidNetwork || !strings.Contains(issue.Message, text) {
							t.Errorf("edit %d: issue %v, want %q", i+1, issue, text)
						}
					}
				}
				if !slices.Equal(given, objects.Networks) {
					t.Errorf("edit %d: the objects that were given are changed", i+1)
				}
			}
		})
	}
}
