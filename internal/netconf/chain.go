// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ErrNotOurs means that the chain holds no sluice element: the network is none of our business.
var ErrNotOurs = errors.New("chain without sluice")

// Chain is a NAD's whole plugin chain, as far as load balancing depends on it.
type Chain struct {
	Name   string // of the CNI configuration; empty if Multus is to put the NAD's name there
	Kind   string // "macvlan" or "ipvlan": the element that makes the pod's interface
	Mode   string // of that kind; the kind's default is filled in
	Master string // host interface under the network
	Settings
}

// interfaceDefaults gives the kinds of interface that Sluice can stand behind, each with the mode that its plugin
// defaults to.
var interfaceDefaults = map[string]string{"macvlan": "bridge", "ipvlan": "l2"}

// servedModes are each kind's, without macvlan's "source": there the kernel copies a frame to every pod that lists its sender, so
// that none is chosen by the destination.
var servedModes = map[string][]string{
	"macvlan": {"bridge", "private", "vepa", "passthru"},
	"ipvlan":  {"l2", "l3", "l3s"},
}

// Served tells whether this version balances interfaces of the kind and mode; an empty mode is the kind's default. The
// error names the field and the remedy.
func Served(kind, mode string) error {
	if mode == "" {
		mode = interfaceDefaults[kind]
	}
	modes, ok := servedModes[kind]
	switch {
	case !ok:
		return fmt.Errorf("the interface is of kind %q, and this version serves macvlan and ipvlan: use one of them, or remove "+
			"sluice from the chain", kind)
	case !slices.Contains(modes, mode):
		return fmt.Errorf("\"mode\" is %q, and this version serves %s: set one of them in the %s element, or remove sluice from "+
			"the chain", mode, strings.Join(modes, ", "), kind)
	}
	return nil
}

// ParseChain reads a NAD's spec.config: a plugin list, or a single plugin. It judges what only the whole chain shows.
// The error is ErrNotOurs when no element is sluice, and otherwise tells all that is wrong.
func ParseChain(config []byte) (*Chain, []string, error) {
	list, err := parseElements(config)
	if err != nil {
		// Somebody else's broken NAD is somebody else's to report.
		if !bytes.Contains(config, []byte(`"`+PluginType+`"`)) {
			return nil, nil, ErrNotOurs
		}
		return nil, nil, fmt.Errorf("parse the plugin chain: %w", err)
	}
	ours := list.index(0, PluginType)
	if ours < 0 {
		return nil, nil, ErrNotOurs
	}
	settings, warnings, settingsErr := parseSettings(list.elements[ours])
	c := &Chain{Name: list.name, Settings: settings}
	maker, orderErr := list.judgeOrder(ours)
	if maker == nil {
		return nil, warnings, errors.Join(settingsErr, orderErr)
	}
	linkErr := c.readInterface(maker)
	poolWarnings, poolErr := c.judgePool(maker["ipam"])
	warnings = append(warnings, poolWarnings...)
	if err := errors.Join(settingsErr, orderErr, linkErr, poolErr); err != nil {
		return nil, warnings, err
	}
	return c, warnings, nil
}

// elementList is a chain before judgement.
type elementList struct {
	name     string
	elements []object
}

func parseElements(config []byte) (elementList, error) {
	var whole struct {
		Name    string          `json:"name"`
		Plugins json.RawMessage `json:"plugins"`
	}
	if err := json.Unmarshal(config, &whole); err != nil {
		return elementList{}, err
	}
	list := elementList{name: whole.Name}
	if whole.Plugins != nil {
		err := json.Unmarshal(whole.Plugins, &list.elements)
		return list, err
	}
	var single object
	err := json.Unmarshal(config, &single)
	list.elements = []object{single}
	return list, err
}

// index gives the position of the first element of one of the types, from a position on, or -1.
func (l elementList) index(from int, types ...string) int {
	for i := from; i < len(l.elements); i++ {
		if slices.Contains(types, l.elements[i].text("type")) {
			return i
		}
	}
	return -1
}

// judgeOrder gives the element that makes the interface for the sluice element at the position, or nil.
func (l elementList) judgeOrder(ours int) (object, error) {
	var errs []error
	if again := l.index(ours+1, PluginType); again >= 0 {
		errs = append(errs, errors.New("\"plugins\" holds sluice twice: keep one of them"))
	}
	if sbr := l.index(ours+1, "sbr"); sbr >= 0 {
		errs = append(errs, errors.New("\"plugins\" holds sbr after sluice, and both would route the pod's replies: "+
			"put sbr before sluice, or remove it"))
	}
	maker := l.index(0, "macvlan", "ipvlan")
	switch {
	case len(l.elements) == 1:
		errs = append(errs, errors.New("sluice is alone in the chain: put it into \"plugins\" after macvlan or ipvlan"))
	case maker < 0:
		errs = append(errs, errors.New("\"plugins\" holds neither macvlan nor ipvlan: put sluice after one of them"))
	case maker > ours:
		errs = append(errs, fmt.Errorf("\"plugins\" holds sluice before %s: move sluice behind it",
			l.elements[maker].text("type")))
	default:
		return l.elements[maker], errors.Join(errs...)
	}
	return nil, errors.Join(errs...)
}

// readInterface fills in what the element that makes the interface says.
func (c *Chain) readInterface(maker object) error {
	c.Kind = maker.text("type")
	c.Mode = maker.text("mode")
	if c.Mode == "" {
		c.Mode = interfaceDefaults[c.Kind]
	}
	c.Master = maker.text("master")
	if c.Segment == "" {
		c.Segment = c.Master
	}
	var errs []error
	if c.Master == "" {
		errs = append(errs, fmt.Errorf("\"master\" is missing in the %s element: name the host's interface, "+
			"because nodes prepare it before the first pod comes", c.Kind))
	}
	if string(maker["linkInContainer"]) == "true" {
		errs = append(errs, fmt.Errorf("\"linkInContainer\" is true in the %s element, and Sluice works on the "+
			"host's interfaces: remove the key", c.Kind))
	}
	return errors.Join(append(errs, Served(c.Kind, c.Mode))...)
}

// judgePool compares "vips" with what the IPAM plugin does.
func (c *Chain) judgePool(ipam json.RawMessage) ([]string, error) {
	plan, err := parseIPAM(ipam)
	if err != nil {
		return []string{fmt.Sprintf("\"ipam\" is not understood, so \"vips\" is not compared with it: %v", err)}, nil
	}
	var errs []error
	if both := c.VIPs.Intersect(plan.gives); !both.IsEmpty() {
		errs = append(errs, fmt.Errorf("\"vips\" and the range of \"ipam\" (%s) share %s: "+
			"end the range before the VIPs, or move \"vips\"", plan.kind, both))
	}
	for _, gateway := range plan.gateways {
		if c.VIPs.Contains(gateway) {
			errs = append(errs, fmt.Errorf("\"vips\" holds the gateway %s of \"ipam\" (%s): leave it out of \"vips\"",
				gateway, plan.kind))
		}
	}
	warnings, subnetErr := c.judgeSubnets(plan.subnets)
	return warnings, errors.Join(append(errs, subnetErr)...)
}

// judgeSubnets finds VIPs that hosts would take for a broadcast, and VIPs that no host would ask its neighbours for.
func (c *Chain) judgeSubnets(subnets []netip.Prefix) ([]string, error) {
	outside := c.VIPs
	var errs []error
	for _, subnet := range subnets {
		all := Range{From: subnet.Masked().Addr(), To: lastAddr(subnet)}
		outside = outside.Without(newPool(all))
		for _, a := range []netip.Addr{all.From, all.To} {
			if c.VIPs.Contains(a) && !hosts(subnet).Contains(a) {
				errs = append(errs, fmt.Errorf("\"vips\" holds %s, the network, broadcast or routers' address of %s: "+
					"leave it out of \"vips\"", a, subnet))
			}
		}
	}
	known := func(is4 bool) bool {
		return slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Addr().Is4() == is4 })
	}
	var warnings []string
	for _, r := range outside.ranges {
		if known(r.From.Is4()) {
			warnings = append(warnings, fmt.Sprintf("\"vips\" holds %s, outside the subnets of \"ipam\": hosts on the "+
				"network reach it only by a route, so check \"vips\" for a typing error", r))
		}
	}
	return warnings, errors.Join(errs...)
}

// text gives a key's text, or nothing if the value is of another kind: the plugin that owns the element refuses it.
func (o object) text(key string) string {
	var s string
	if json.Unmarshal(o[key], &s) != nil {
		return ""
	}
	return s
}
