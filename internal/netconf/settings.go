// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Settings are Sluice's own keys in its element of the chain.
type Settings struct {
	VIPs              Pool     // "vips": addresses that Services may get on the network; may be empty
	Segment           string   // "segment": name of the layer-2 network; empty if the key is absent
	AllowedNamespaces []string // "allowedNamespaces": whose Services may take VIPs; nil means all
	// SharingAcrossNamespaces is "sharingAcrossNamespaces": whether Services of several namespaces that have one sharing
	// key may share a VIP; default false.
	SharingAcrossNamespaces bool
	ReplyRouting            bool // "replyRouting": replies from the pod's address leave by its interface; default true
	Required                bool // "required": ADD fails while the agent is down; default false
	BFD                     *BFD // "bfd": failure detection on the segment; nil if the key is absent
}

// BFD is the pace of failure detection.
type BFD struct {
	Interval   time.Duration // between two packets; 0 means the default
	Multiplier uint8         // intervals of silence that mean down, 2 to 255; 0 means the default
}

// AllowsNamespace tells whether Services of the namespace may take VIPs from this network.
func (s Settings) AllowsNamespace(namespace string) bool {
	return s.AllowedNamespaces == nil || slices.Contains(s.AllowedNamespaces, namespace)
}

// object is a JSON object whose values are read one by one, so that each error can name its key.
type object map[string]json.RawMessage

// A reader takes the raw value of its key. Its error says what the value is and what to write instead; the key comes
// from the caller.
type reader func(raw json.RawMessage) error

// cniKeys belong to CNI itself (CNI SPEC and CONVENTIONS) or to Multus, and may stand in any element.
var cniKeys = []string{
	"cniVersion", "name", "type", "prevResult", "runtimeConfig", "capabilities", "args", "ipam", "dns",
	"cniVersions", "disableCheck", "disableGC",
}

var (
	segmentName   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
	namespaceName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// parseSettings reads Sluice's keys from its element. It reads all of them, so that one error tells all that is wrong.
func parseSettings(element object) (Settings, []string, error) {
	s := Settings{ReplyRouting: true}
	var warnings []string
	readers := map[string]reader{
		"vips":                    func(raw json.RawMessage) error { return readPool(raw, &s.VIPs) },
		"segment":                 func(raw json.RawMessage) error { return readSegment(raw, &s.Segment) },
		"allowedNamespaces":       func(raw json.RawMessage) error { return readNamespaces(raw, &s.AllowedNamespaces) },
		"sharingAcrossNamespaces": func(raw json.RawMessage) error { return readBool(raw, &s.SharingAcrossNamespaces) },
		"replyRouting":            func(raw json.RawMessage) error { return readBool(raw, &s.ReplyRouting) },
		"required":                func(raw json.RawMessage) error { return readBool(raw, &s.Required) },
		"bfd": func(raw json.RawMessage) error {
			bfd, unknown, err := readBFD(raw)
			s.BFD, warnings = bfd, append(warnings, unknown...)
			return err
		},
	}
	unknown, err := readObject("", element, readers, func(key string) bool {
		return slices.Contains(cniKeys, key) || strings.HasPrefix(key, "cni.dev/")
	})
	return s, append(warnings, unknown...), err
}

// readObject calls the reader of each key, in the keys' order. A null counts as an absent key, as it does in CNI's own
// decoding.
func readObject(path string, o object, readers map[string]reader, foreign func(string) bool) ([]string, error) {
	var warnings []string
	var errs []error
	known := slices.Sorted(maps.Keys(readers))
	for _, key := range slices.Sorted(maps.Keys(o)) {
		read, ok := readers[key]
		switch {
		case ok && string(o[key]) == "null":
		case ok:
			if err := read(o[key]); err != nil {
				errs = append(errs, fmt.Errorf("%q: %w", path+key, err))
			}
		case !foreign(key):
			warnings = append(warnings, fmt.Sprintf("unknown key %q is ignored: this version knows %s",
				path+key, strings.Join(known, ", ")))
		}
	}
	return warnings, errors.Join(errs...)
}

func readPool(raw json.RawMessage, into *Pool) error {
	var entries []string
	if err := json.Unmarshal(raw, &entries); err != nil {
		return fmt.Errorf(`%s is no list of texts: write ["192.168.20.240-192.168.20.250"]`, shorten(raw))
	}
	pool, err := ParsePool(entries)
	if err != nil {
		return err
	}
	*into = pool
	return nil
}

func readSegment(raw json.RawMessage, into *string) error {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil || !segmentName.MatchString(s) {
		return fmt.Errorf("%s is no segment name: write 1 to 63 letters, digits, '-', '_' or '.', "+
			"with a letter or digit at both ends, or leave the key out to use the master's name", shorten(raw))
	}
	*into = s
	return nil
}

func readNamespaces(raw json.RawMessage, into *[]string) error {
	var names []string
	if err := json.Unmarshal(raw, &names); err != nil {
		return fmt.Errorf(`%s is no list of texts: write ["team-a", "team-b"]`, shorten(raw))
	}
	if len(names) == 0 {
		return errors.New("the list is empty: name a namespace, or leave the key out to allow all")
	}
	for _, name := range names {
		if !namespaceName.MatchString(name) {
			return fmt.Errorf("%q is no namespace name: write the name of a namespace such as %q", name, "team-a")
		}
	}
	slices.Sort(names)
	*into = slices.Compact(names)
	return nil
}

func readBool(raw json.RawMessage, into *bool) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s is no truth value: write true or false, without quotes", shorten(raw))
	}
	return nil
}

func readBFD(raw json.RawMessage) (*BFD, []string, error) {
	var o object
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, nil, fmt.Errorf(`%s is no object: write {"interval": "100ms", "multiplier": 3}`, shorten(raw))
	}
	bfd := &BFD{}
	warnings, err := readObject("bfd.", o, map[string]reader{
		"interval": func(raw json.RawMessage) error {
			var s string
			err := json.Unmarshal(raw, &s)
			d, parseErr := time.ParseDuration(s)
			if errors.Join(err, parseErr) != nil || d <= 0 {
				return fmt.Errorf(`%s is no positive duration: write one with its unit such as "100ms"`, shorten(raw))
			}
			bfd.Interval = d
			return nil
		},
		"multiplier": func(raw json.RawMessage) error {
			var n int
			if err := json.Unmarshal(raw, &n); err != nil || n < 2 || n > math.MaxUint8 {
				return fmt.Errorf("%s is no usable multiplier: write a number from 2 to 255 "+
					"(with 1, a single lost packet is a failure)", shorten(raw))
			}
			bfd.Multiplier = uint8(n)
			return nil
		},
	}, func(string) bool { return false })
	return bfd, warnings, err
}

// shorten keeps error messages readable, whatever the value is.
func shorten(raw json.RawMessage) string {
	const limit = 60
	if len(raw) <= limit {
		return string(raw)
	}
	return strings.ToValidUTF8(string(raw[:limit]), "") + "..."
}
