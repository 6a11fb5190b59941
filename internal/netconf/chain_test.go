// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	macvlan    = `{"type": "macvlan", "master": "eth1", "mode": "bridge"}`
	ownElement = `{"type": "sluice", "vips": ["192.168.20.240-192.168.20.250"]}`
)

func chain(elements ...string) []byte {
	return []byte(`{"cniVersion": "1.0.0", "name": "macvlan1", "plugins": [` + strings.Join(elements, ", ") + `]}`)
}

func withIPAM(ipam string) string {
	return `{"type": "macvlan", "master": "eth1", "ipam": ` + ipam + `}`
}

func TestParseChain(t *testing.T) {
	pool := mustPool(t, "192.168.20.240-192.168.20.250")
	tests := map[string]struct {
		config []byte
		want   Chain
	}{
		"macvlan, then sluice": {
			config: chain(macvlan, ownElement),
			want: Chain{
				Name: "macvlan1", Kind: "macvlan", Mode: "bridge", Master: "eth1",
				Settings: Settings{VIPs: pool, Segment: "eth1", ReplyRouting: true},
			},
		},
		"named segment, default mode, others between": {
			config: chain(`{"type": "macvlan", "master": "bond0"}`, `{"type": "sbr"}`, `{"type": "tuning"}`,
				`{"type": "sluice", "segment": "storage", "allowedNamespaces": ["a"]}`),
			want: Chain{
				Name: "macvlan1", Kind: "macvlan", Mode: "bridge", Master: "bond0",
				Settings: Settings{Segment: "storage", AllowedNamespaces: []string{"a"}, ReplyRouting: true},
			},
		},
		"name left to Multus": {
			config: []byte(`{"plugins": [` + macvlan + `,` + ownElement + `]}`),
			want: Chain{
				Kind: "macvlan", Mode: "bridge", Master: "eth1",
				Settings: Settings{VIPs: pool, Segment: "eth1", ReplyRouting: true},
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, warnings, err := ParseChain(tc.config)
			if err != nil {
				t.Fatal(err)
			}
			if len(warnings) > 0 {
				t.Errorf("unexpected warnings: %q", warnings)
			}
			if diff := cmp.Diff(&tc.want, got); diff != "" {
				t.Errorf("chain (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseChainLeavesOthersAlone(t *testing.T) {
	tests := map[string]string{
		"single macvlan":       macvlan,
		"chain without sluice": string(chain(macvlan, `{"type": "tuning"}`)),
		"empty":                "",
		"broken, not ours":     `{"plugins": [`,
		"null":                 "null",
		"null element":         `{"plugins": [null]}`,
	}
	for name, config := range tests {
		t.Run(name, func(t *testing.T) {
			if _, _, err := ParseChain([]byte(config)); !errors.Is(err, ErrNotOurs) {
				t.Errorf("error = %v, want ErrNotOurs", err)
			}
		})
	}
}

func TestParseChainRefusesOrder(t *testing.T) {
	tests := map[string]struct {
		config []byte
		want   []string
	}{
		"broken, ours":       {[]byte(`{"plugins": [{"type": "sluice"}`), []string{"parse the plugin chain"}},
		"plugins is no list": {[]byte(`{"plugins": {"type": "sluice"}}`), []string{"parse the plugin chain"}},
		"alone, as a list":   {chain(ownElement), []string{"sluice is alone", `put it into "plugins" after macvlan`}},
		"alone, as a plugin": {[]byte(ownElement), []string{"sluice is alone", `put it into "plugins" after macvlan`}},
		"first":              {chain(ownElement, macvlan), []string{"sluice before macvlan", "move sluice behind it"}},
		"twice":              {chain(macvlan, ownElement, ownElement), []string{"sluice twice", "keep one"}},
		"after a bridge": {
			chain(`{"type": "bridge"}`, ownElement),
			[]string{"neither macvlan nor ipvlan", "put sluice after one of them"},
		},
		"sbr behind": {
			chain(macvlan, ownElement, `{"type": "sbr"}`),
			[]string{"sbr after sluice", "put sbr before sluice"},
		},
		"order and values": {
			chain(`{"type": "sluice", "required": 1}`, macvlan),
			[]string{"sluice before macvlan", `"required": 1`},
		},
		"master left out": {
			chain(`{"type": "macvlan"}`, ownElement),
			[]string{`"master" is missing in the macvlan element`, "name the host's interface"},
		},
		"master in container": {
			chain(`{"type": "macvlan", "master": "eth0", "linkInContainer": true}`, ownElement),
			[]string{`"linkInContainer" is true`, "remove the key"},
		},
		"another mode": {
			chain(`{"type": "macvlan", "master": "eth0", "mode": "source"}`, ownElement),
			[]string{`"mode" is "source"`, `serves bridge, private, vepa, passthru`, "set one of them in the macvlan element"},
		},
		"another mode of ipvlan": {
			chain(`{"type": "ipvlan", "master": "eth0", "mode": "bridge"}`, ownElement),
			[]string{`"mode" is "bridge"`, `serves l2, l3, l3s`, "set one of them in the ipvlan element"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, err := ParseChain(tc.config)
			if errors.Is(err, ErrNotOurs) {
				t.Fatal("a chain with sluice is not recognised as ours")
			}
			wantMessage(t, err, tc.want)
		})
	}
}

func TestServedModes(t *testing.T) {
	for kind, modes := range map[string][]string{
		"macvlan": {"", "bridge", "private", "vepa", "passthru"},
		"ipvlan":  {"", "l2", "l3", "l3s"},
	} {
		for _, mode := range modes {
			if err := Served(kind, mode); err != nil {
				t.Errorf("%s with mode %q: %v", kind, mode, err)
			}
		}
	}
	for _, other := range [][2]string{{"macvlan", "source"}, {"macvlan", "l2"}, {"ipvlan", "bridge"}, {"bridge", ""}} {
		if Served(other[0], other[1]) == nil {
			t.Errorf("%s with mode %q is served", other[0], other[1])
		}
	}
}

func TestParseChainRefusesBadValuesAsThePluginDoes(t *testing.T) {
	for name, tc := range refusals {
		t.Run(name, func(t *testing.T) {
			_, _, err := ParseChain(chain(macvlan, `{"type": "sluice", `+tc.keys+`}`))
			wantMessage(t, err, tc.want)
		})
	}
}

func TestParseChainComparesVIPsWithIPAM(t *testing.T) {
	tests := map[string]struct {
		ipam string
		want []string // nil: accepted
	}{
		"no IPAM":    {`{}`, nil},
		"dhcp":       {`{"type": "dhcp"}`, nil},
		"other keys": {`{"type": "calico-ipam", "range": 7}`, nil},

		"host-local apart": {`{"type": "host-local", "subnet": "192.168.20.0/24", "rangeEnd": "192.168.20.239"}`, nil},
		"host-local whole subnet": {
			`{"type": "host-local", "subnet": "192.168.20.0/24"}`,
			[]string{`"ipam" (host-local) share 192.168.20.240-192.168.20.250`, `move "vips"`},
		},
		"host-local by one address": {
			`{"type": "host-local", "subnet": "192.168.20.0/24", "rangeStart": "192.168.20.2", "rangeEnd": "192.168.20.240"}`,
			[]string{"share 192.168.20.240:"},
		},
		"host-local in ranges": {
			`{"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}],
				[{"subnet": "192.168.20.0/24", "rangeStart": "192.168.20.250"}]]}`,
			[]string{"share 192.168.20.250:"},
		},
		"host-local gateway": {
			`{"type": "host-local", "subnet": "192.168.20.0/24", "rangeEnd": "192.168.20.9", "gateway": "192.168.20.241"}`,
			[]string{"the gateway 192.168.20.241", `leave it out of "vips"`},
		},
		"host-local implied gateway": {
			`{"type": "host-local", "subnet": "192.168.20.240/28", "rangeStart": "192.168.20.251"}`,
			[]string{"the gateway 192.168.20.241"},
		},

		"whereabouts apart": {
			`{"type": "whereabouts", "range": "192.168.20.0/24", "range_start": "192.168.20.20",
				"range_end": "192.168.20.200", "gateway": "192.168.20.1"}`,
			nil,
		},
		"whereabouts whole range": {
			`{"type": "whereabouts", "range": "192.168.20.0/24"}`,
			[]string{`"ipam" (whereabouts) share 192.168.20.240-192.168.20.250`},
		},
		"whereabouts starts behind": {`{"type": "whereabouts", "range": "192.168.20.251/24"}`, nil},
		"whereabouts dashed apart":  {`{"type": "whereabouts", "range": "192.168.20.20-192.168.20.200/24"}`, nil},
		"whereabouts dashed across": {
			`{"type": "whereabouts", "range": "192.168.20.20-192.168.20.245/24"}`,
			[]string{"share 192.168.20.240-192.168.20.245"},
		},
		"whereabouts excluded": {
			`{"type": "whereabouts", "range": "192.168.20.0/24", "exclude": ["192.168.20.240/28"]}`,
			nil,
		},
		"whereabouts excluded by half": {
			`{"type": "whereabouts", "range": "192.168.20.0/24", "exclude": ["192.168.20.240/29"]}`,
			[]string{"share 192.168.20.248-192.168.20.250"},
		},
		"whereabouts exclude elsewhere": {
			`{"type": "whereabouts", "ipRanges": [{"range": "10.0.0.0/24", "exclude": ["192.168.20.0/24"]},
				{"range": "192.168.20.0/24"}]}`,
			[]string{"share 192.168.20.240-192.168.20.250"},
		},
		"whereabouts gateway": {
			`{"type": "whereabouts", "range": "192.168.20.0/25", "gateway": "192.168.20.250"}`,
			[]string{"the gateway 192.168.20.250"},
		},
		"whereabouts fixed address": {
			`{"type": "whereabouts", "addresses": [{"address": "192.168.20.244/24"}]}`,
			[]string{"share 192.168.20.244:"},
		},

		"static apart": {
			`{"type": "static", "addresses": [{"address": "192.168.20.4/24", "gateway": "192.168.20.1"}]}`,
			nil,
		},
		"static in VIPs": {
			`{"type": "static", "addresses": [{"address": "192.168.20.240/24"}]}`,
			[]string{`"ipam" (static) share 192.168.20.240:`},
		},
		"static gateway": {
			`{"type": "static", "addresses": [{"address": "192.168.20.4/24", "gateway": "192.168.20.250"}]}`,
			[]string{"the gateway 192.168.20.250"},
		},

		"broadcast of the subnet": {
			`{"type": "static", "addresses": [{"address": "192.168.20.226/28"},
				{"address": "192.168.20.244/29", "gateway": ""}]}`,
			[]string{"192.168.20.247, the network, broadcast or routers' address of 192.168.20.240/29"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, warnings, err := ParseChain(chain(withIPAM(tc.ipam), ownElement))
			if tc.want == nil {
				if err != nil || len(warnings) > 0 {
					t.Errorf("error = %v, warnings = %q, want neither", err, warnings)
				}
				return
			}
			wantMessage(t, err, tc.want)
		})
	}
}

func TestParseChainWarns(t *testing.T) {
	tests := map[string]struct {
		config []byte
		want   string
	}{
		"unknown key": {chain(macvlan, `{"type": "sluice", "vip": []}`), `unknown key "vip" is ignored`},
		"VIPs elsewhere": {
			chain(withIPAM(`{"type": "host-local", "subnet": "192.168.2.0/24"}`), ownElement),
			`holds 192.168.20.240-192.168.20.250, outside the subnets`,
		},
		"IPAM is no object": {chain(withIPAM(`"host-local"`), ownElement), `"ipam" is not understood`},
		"bad subnet": {
			chain(withIPAM(`{"type": "host-local", "subnet": "x"}`), ownElement),
			`"ipam" is not understood`,
		},
		"bad exclude": {
			chain(withIPAM(`{"type": "whereabouts", "range": "10.0.0.0/24", "exclude": ["x"]}`), ownElement),
			`"ipam" is not understood`,
		},
		"reversed range": {
			chain(withIPAM(`{"type": "whereabouts", "range": "10.0.0.9-10.0.0.1/24"}`), ownElement),
			`"ipam" is not understood`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, warnings, err := ParseChain(tc.config)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(strings.Join(warnings, "\n"), tc.want) {
				t.Errorf("warnings = %q, want one with %q", warnings, tc.want)
			}
		})
	}
}

func TestAllowsNamespace(t *testing.T) {
	if !(Settings{}).AllowsNamespace("a") {
		t.Error("without a list, a namespace is not allowed")
	}
	s := Settings{AllowedNamespaces: []string{"a"}}
	if !s.AllowsNamespace("a") || s.AllowsNamespace("b") {
		t.Error("the list is not followed")
	}
}

// FuzzParseChain checks that no NAD makes the parser panic, and that an accepted one keeps its invariants.
func FuzzParseChain(f *testing.F) {
	f.Add(chain(macvlan, ownElement))
	f.Add([]byte(ownElement))
	for _, ipam := range []string{
		`{"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}]]}`,
		`{"type": "whereabouts", "range": "10.0.0.1-10.0.0.2/24", "exclude": ["10.0.0.1/32"]}`,
		`{"type": "static", "addresses": [{"address": "10.0.0.1/24", "gateway": "10.0.0.2"}]}`,
	} {
		f.Add(chain(withIPAM(ipam), ownElement))
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		c, _, err := ParseChain(config)
		if err != nil {
			return
		}
		if c.Master == "" || c.Segment == "" || Served(c.Kind, c.Mode) != nil {
			t.Fatalf("accepted %+v", c)
		}
	})
}
