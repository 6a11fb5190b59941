// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
	"github.com/sluice-lb/sluice/internal/ether"
)

var compareAddrs = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()}

func TestParseNetworks(t *testing.T) {
	tests := map[string]struct {
		list       string
		names, bad []string
	}{
		"empty":                 {list: ""},
		"own namespace":         {list: "macvlan1", names: []string{"own/macvlan1"}},
		"other namespace":       {list: "storage/macvlan1", names: []string{"storage/macvlan1"}},
		"spaces":                {list: " a ,\tstorage/b ", names: []string{"own/a", "storage/b"}},
		"empty entries":         {list: ",macvlan1,, ", names: []string{"own/macvlan1"}},
		"twice, written apart":  {list: "own/macvlan1, macvlan1", names: []string{"own/macvlan1"}},
		"order is kept":         {list: "b, a", names: []string{"own/b", "own/a"}},
		"dots in the name":      {list: "eth0.100", names: []string{"own/eth0.100"}},
		"interface is no name":  {list: "macvlan1@net1, b", names: []string{"own/b"}, bad: []string{"macvlan1@net1"}},
		"no name":               {list: "own/, /a", bad: []string{"own/", "/a"}},
		"too many slashes":      {list: "a/b/c", bad: []string{"a/b/c"}},
		"capitals are no names": {list: "Macvlan1", bad: []string{"Macvlan1"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			names, bad := kube.ParseNetworks(tc.list, "own")
			if diff := cmp.Diff(tc.names, names); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.bad, bad); diff != "" {
				t.Errorf("bad (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseNetworkStatus(t *testing.T) {
	one := kube.Attachment{
		Network: "default/sec", Interface: "net1", MAC: ether.MAC{2, 0, 0, 0, 0, 1},
		Addrs: []netip.Addr{netip.MustParseAddr("10.99.0.2")},
	}
	two := one
	two.Interface = "net2"
	six := one
	six.Addrs = []netip.Addr{netip.MustParseAddr("fd00::2"), netip.MustParseAddr("10.99.0.2")}
	bare := kube.Attachment{Network: "cluster"}
	tests := map[string]struct {
		text string
		want []kube.Attachment
	}{
		"not attached yet": {text: ""},
		"Multus 4.3": {
			text: `[{"name":"cluster","default":true,"dns":{},"gateway":["<nil>"]},
				{"name":"default/sec","interface":"net1","ips":["10.99.0.2"],"mac":"02:00:00:00:00:01","dns":{}}]`,
			want: []kube.Attachment{bare, one},
		},
		"with a prefix length, as in the specification": {
			text: `[{"name":"default/sec","interface":"net1","ips":["10.99.0.2/24"],"mac":"02:00:00:00:00:01"}]`,
			want: []kube.Attachment{one},
		},
		"two interfaces on one network": {
			text: `[{"name":"default/sec","interface":"net1","ips":["10.99.0.2"],"mac":"02:00:00:00:00:01"},
				{"name":"default/sec","interface":"net2","ips":["10.99.0.2"],"mac":"02:00:00:00:00:01"}]`,
			want: []kube.Attachment{one, two},
		},
		"two families": {
			text: `[{"name":"default/sec","interface":"net1","ips":["fd00::2/64","10.99.0.2"],"mac":"02:00:00:00:00:01"}]`,
			want: []kube.Attachment{six},
		},
		"nonsense in addresses and MAC": {
			text: `[{"name":"default/sec","interface":"net1","ips":["","<nil>","10.99.0.2"],"mac":"02:00:00:00:00:01"},
				{"name":"cluster","ips":["x"],"mac":"y"}]`,
			want: []kube.Attachment{one, bare},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := kube.ParseNetworkStatus(tc.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, compareAddrs); diff != "" {
				t.Errorf("attachments (-want +got):\n%s", diff)
			}
		})
	}
	for _, text := range []string{"{", `{"name":"a"}`, `[{"name":1}]`, "default/sec"} {
		if got, err := kube.ParseNetworkStatus(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func FuzzParseNetworkStatus(f *testing.F) {
	f.Add(`[{"name":"default/sec","interface":"net1","ips":["10.99.0.2/24"],"mac":"02:00:00:00:00:01"}]`)
	f.Add(`[{"ips":["fe80::1%eth0","::ffff:1.2.3.4","::ffff:1.2.3.4/120"]}]`)
	f.Fuzz(func(t *testing.T, text string) {
		attachments, err := kube.ParseNetworkStatus(text)
		if err != nil && attachments != nil {
			t.Fatalf("%q: both %v and %v", text, attachments, err)
		}
		for _, attachment := range attachments {
			for _, addr := range attachment.Addrs {
				if !addr.IsValid() || addr.Zone() != "" || addr.Is4In6() {
					t.Fatalf("%q: gives %v", text, addr)
				}
			}
		}
	})
}

func FuzzParseVIPs(f *testing.F) {
	f.Add(`{"default/macvlan1":["192.168.20.240"]}`)
	f.Add(`{"a":["fd00::1","10.0.0.2","10.0.0.1","10.0.0.1"],"b":null,"":[]}`)
	f.Fuzz(func(t *testing.T, text string) {
		vips, err := kube.ParseVIPs(text)
		if err != nil {
			return
		}
		again, err := kube.ParseVIPs(kube.FormatVIPs(vips))
		if err != nil {
			t.Fatalf("%q: what was read cannot be read again: %v", text, err)
		}
		if diff := cmp.Diff(vips, again, compareAddrs); diff != "" {
			t.Fatalf("%q reads differently again (-first +second):\n%s", text, diff)
		}
	})
}

func FuzzParseMACs(f *testing.F) {
	f.Add(`{"192.168.20.20":"02:00:5e:10:00:01"}`)
	f.Add(`{"fd00::1":"0200.5e10.0001","":"","10.0.0.1":""}`)
	f.Fuzz(func(t *testing.T, text string) {
		macs, err := kube.ParseMACs(text)
		if err != nil {
			return
		}
		again, err := kube.ParseMACs(kube.FormatMACs(macs))
		if err != nil {
			t.Fatalf("%q: what was read cannot be read again: %v", text, err)
		}
		if diff := cmp.Diff(macs, again, compareAddrs); diff != "" {
			t.Fatalf("%q reads differently again (-first +second):\n%s", text, diff)
		}
	})
}

func FuzzParseNetworks(f *testing.F) {
	f.Add("macvlan1, storage/macvlan2", "default")
	f.Add("a/b/c,,@", "")
	f.Fuzz(func(t *testing.T, list, namespace string) {
		names, _ := kube.ParseNetworks(list, namespace)
		for _, name := range names {
			again, bad := kube.ParseNetworks(name, "another")
			if len(bad) > 0 || !cmp.Equal(again, []string{name}) {
				t.Fatalf("%q: %q reads again as %q, bad %q", list, name, again, bad)
			}
		}
	})
}
