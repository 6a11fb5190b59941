// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func element(keys string) []byte {
	if keys != "" {
		keys = ", " + keys
	}
	return []byte(`{"cniVersion": "1.0.0", "name": "macvlan1", "type": "sluice"` + keys + `}`)
}

func TestParsePluginReadsOwnKeys(t *testing.T) {
	tests := map[string]struct {
		keys string
		want Settings
	}{
		"defaults": {keys: "", want: Settings{ReplyRouting: true}},
		"all": {
			keys: `"vips": ["192.168.20.240-192.168.20.250", "fd00:20::f0/124"], "segment": "storage-1",
				"allowedNamespaces": ["b", "a", "b"], "replyRouting": false, "required": true,
				"bfd": {"interval": "100ms", "multiplier": 3}`,
			want: Settings{
				VIPs:              mustPool(t, "192.168.20.240-192.168.20.250", "fd00:20::f0-fd00:20::ff"),
				Segment:           "storage-1",
				AllowedNamespaces: []string{"a", "b"},
				Required:          true,
				BFD:               &BFD{Interval: 100 * time.Millisecond, Multiplier: 3},
			},
		},
		"null means absent": {
			keys: `"vips": null, "segment": null, "allowedNamespaces": null, "replyRouting": null, "bfd": null`,
			want: Settings{ReplyRouting: true},
		},
		"empty bfd means defaults": {keys: `"bfd": {}`, want: Settings{ReplyRouting: true, BFD: &BFD{}}},
		"empty list of VIPs":       {keys: `"vips": []`, want: Settings{ReplyRouting: true}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p, warnings, err := ParsePlugin(element(tc.keys))
			if err != nil {
				t.Fatal(err)
			}
			if len(warnings) > 0 {
				t.Errorf("unexpected warnings: %q", warnings)
			}
			if diff := cmp.Diff(tc.want, p.Settings); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
}

// refusals is shared by the plugin's tests and the chain's: both must come to the same judgement.
var refusals = map[string]struct {
	keys string
	want []string // key, value and remedy
}{
	"vips is no list": {
		`"vips": "10.0.0.1"`,
		[]string{`"vips": "10.0.0.1" is no list of texts`, `write ["192.168.20.240-192.168.20.250"]`},
	},
	"vips reversed": {
		`"vips": ["10.0.0.9-10.0.0.1"]`,
		[]string{`"vips": range "10.0.0.9-10.0.0.1" is reversed`, "write 10.0.0.1-10.0.0.9"},
	},
	"segment is a number": {`"segment": 7`, []string{`"segment": 7 is no segment name`, "write 1 to 63 letters"}},
	"segment is empty":    {`"segment": ""`, []string{`"segment": "" is no segment name`, "or leave the key out"}},
	"segment with slash":  {`"segment": "a/b"`, []string{`"segment": "a/b" is no segment name`}},
	"namespaces is text": {
		`"allowedNamespaces": "a"`,
		[]string{`"allowedNamespaces": "a" is no list`, `write ["team-a", "team-b"]`},
	},
	"namespaces is empty": {
		`"allowedNamespaces": []`,
		[]string{`"allowedNamespaces": the list is empty`, "leave the key out to allow all"},
	},
	"bad namespace": {
		`"allowedNamespaces": ["Team A"]`,
		[]string{`"allowedNamespaces": "Team A" is no namespace name`, `such as "team-a"`},
	},
	"replyRouting is text": {
		`"replyRouting": "yes"`,
		[]string{`"replyRouting": "yes" is no truth value`, "write true or false"},
	},
	"required is a number": {`"required": 1`, []string{`"required": 1 is no truth value`, "write true or false"}},
	"bfd is text": {
		`"bfd": "fast"`,
		[]string{`"bfd": "fast" is no object`, `write {"interval": "100ms", "multiplier": 3}`},
	},
	"bfd without unit": {
		`"bfd": {"interval": 100}`,
		[]string{`"bfd": "bfd.interval": 100 is no positive duration`, `such as "100ms"`},
	},
	"bfd stands still": {`"bfd": {"interval": "0s"}`, []string{`"bfd.interval": "0s" is no positive duration`}},
	"bfd backwards":    {`"bfd": {"interval": "-1s"}`, []string{`"bfd.interval": "-1s" is no positive duration`}},
	"bfd multiplier 1": {
		`"bfd": {"multiplier": 1}`,
		[]string{`"bfd.multiplier": 1 is no usable multiplier`, "write a number from 2 to 255"},
	},
	"bfd multiplier 256": {`"bfd": {"multiplier": 256}`, []string{`"bfd.multiplier": 256 is no usable multiplier`}},
	"all at once": {`"vips": ["x"], "segment": "", "required": "no"`, []string{
		`"vips": "x" is no address`, `"segment": ""`, `"required": "no"`,
	}},
	"a very long value": {`"segment": "` + strings.Repeat("a", 500) + `"`, []string{`aaa... is no segment name`}},
}

func TestParsePluginRefusesBadValues(t *testing.T) {
	for name, tc := range refusals {
		t.Run(name, func(t *testing.T) {
			_, _, err := ParsePlugin(element(tc.keys))
			wantMessage(t, err, tc.want)
		})
	}
}

func wantMessage(t *testing.T, err error, want []string) {
	t.Helper()
	if err == nil {
		t.Fatal("accepted, want an error")
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error = %q, want it to contain %q", err, w)
		}
	}
}

func TestParsePluginWarnsOfUnknownKeys(t *testing.T) {
	_, warnings, err := ParsePlugin(element(`"vip": [], "VIPS": [], "bfd": {"auth": true},
		"runtimeConfig": {}, "capabilities": {"mac": true}, "args": {}, "ipam": {}, "dns": {},
		"cni.dev/valid-attachments": []`))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`unknown key "bfd.auth" is ignored: this version knows interval, multiplier`,
		`unknown key "VIPS" is ignored: this version knows allowedNamespaces, bfd, replyRouting, required, segment, sharingAcrossNamespaces, vips`,
		`unknown key "vip" is ignored: this version knows allowedNamespaces, bfd, replyRouting, required, segment, sharingAcrossNamespaces, vips`,
	}
	if diff := cmp.Diff(want, warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestParsePluginReadsPrevResultOfEveryVersion(t *testing.T) {
	const (
		modern = `{"cniVersion": %q, "interfaces": [{"name": "net1", "sandbox": "/run/netns/p"}],
			"ips": [{"address": "10.1.1.11/24", "gateway": "10.1.1.1", "interface": 0}]}`
		middle = `{"cniVersion": %q, "interfaces": [{"name": "net1", "sandbox": "/run/netns/p"}],
			"ips": [{"version": "4", "address": "10.1.1.11/24", "gateway": "10.1.1.1", "interface": 0}]}`
		legacy = `{"ip4": {"ip": "10.1.1.11/24", "gateway": "10.1.1.1"}}`
	)
	tests := map[string]string{
		"1.1.0": modern, "1.0.0": modern, "0.4.0": middle, "0.3.1": middle, "0.3.0": middle,
		"0.2.0": legacy, "0.1.0": legacy, "": legacy,
	}
	for cniVersion, form := range tests {
		t.Run(cniVersion, func(t *testing.T) {
			prev := form
			if strings.Contains(form, "%q") {
				prev = fmt.Sprintf(form, cniVersion)
			}
			p, _, err := ParsePlugin(fmt.Appendf(nil,
				`{"cniVersion": %q, "name": "n", "type": "sluice", "prevResult": %s}`, cniVersion, prev))
			if err != nil {
				t.Fatal(err)
			}
			if p.Previous == nil || len(p.Previous.IPs) != 1 {
				t.Fatalf("previous result = %v, want one address", p.Previous)
			}
			if got := p.Previous.IPs[0].Gateway.String(); got != "10.1.1.1" {
				t.Errorf("gateway = %s", got)
			}
			if _, err := p.PrevResult.GetAsVersion(p.CNIVersion); err != nil {
				t.Errorf("the result cannot be printed in the configuration's version: %v", err)
			}
		})
	}
}

func TestParsePluginRefusesWhatIsNoConfiguration(t *testing.T) {
	for _, stdin := range []string{
		"", "null garbage", "[]", `"text"`, `{"prevResult": 7}`, `{"cniVersion": "1.0.0", "prevResult": {"ips": 7}}`,
	} {
		if p, _, err := ParsePlugin([]byte(stdin)); err == nil {
			t.Errorf("ParsePlugin(%q) = %+v, want an error", stdin, p)
		}
	}
}

// FuzzParsePlugin checks that no input makes the parser panic, and that an accepted one keeps its invariants.
func FuzzParsePlugin(f *testing.F) {
	f.Add(element(`"vips": ["10.0.0.0/24"], "bfd": {"interval": "1s", "multiplier": 2}`))
	f.Add(element(`"prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.1.1.11/24"}]}`))
	for _, tc := range refusals {
		f.Add(element(tc.keys))
	}
	f.Fuzz(func(t *testing.T, stdin []byte) {
		p, _, err := ParsePlugin(stdin)
		if err != nil {
			return
		}
		if !json.Valid(stdin) {
			t.Fatal("accepted what is no JSON")
		}
		if p.BFD != nil && (p.BFD.Interval < 0 || p.BFD.Multiplier == 1) {
			t.Fatalf("accepted BFD %+v", *p.BFD)
		}
		if p.AllowedNamespaces != nil && len(p.AllowedNamespaces) == 0 {
			t.Fatal("accepted a list that allows nobody")
		}
		if (p.Previous == nil) != (p.PrevResult == nil) {
			t.Fatal("the two forms of prevResult differ")
		}
	})
}
