// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// ipamPlan is what the chain's IPAM plugin may do on the network, as far as its configuration tells.
type ipamPlan struct {
	kind     string
	gives    Pool           // addresses that pods may get
	subnets  []netip.Prefix // subnets of those addresses
	gateways []netip.Addr
}

// ipamConf joins the keys of the three IPAM plugins whose ranges stand in the NAD. Each uses its own subset:
//
//	host-local   subnet, rangeStart, rangeEnd, gateway; and the same inside ranges (a list of lists)
//	whereabouts  range, range_start, range_end, exclude, gateway; and the same inside ipRanges; addresses
//	static       addresses
type ipamConf struct {
	Type      string             `json:"type"`
	Gateway   string             `json:"gateway"`
	Addresses []ipamAddress      `json:"addresses"`
	Ranges    [][]hostLocalRange `json:"ranges"`
	IPRanges  []whereaboutsRange `json:"ipRanges"`
}

type ipamAddress struct {
	Address string `json:"address"`
	Gateway string `json:"gateway"`
}

type hostLocalRange struct {
	Subnet     string `json:"subnet"`
	RangeStart string `json:"rangeStart"`
	RangeEnd   string `json:"rangeEnd"`
	Gateway    string `json:"gateway"`
}

type whereaboutsRange struct {
	Range      string   `json:"range"`
	RangeStart string   `json:"range_start"`
	RangeEnd   string   `json:"range_end"`
	Exclude    []string `json:"exclude"`
}

// parseIPAM reads the "ipam" object of the element that makes the interface. An IPAM plugin that keeps its ranges
// elsewhere (dhcp, a file of whereabouts) gives an empty plan; then only the plugin's ADD can judge.
func parseIPAM(raw json.RawMessage) (ipamPlan, error) {
	var conf ipamConf
	if len(raw) == 0 {
		return ipamPlan{}, nil
	}
	if err := json.Unmarshal(raw, &conf); err != nil {
		return ipamPlan{}, err
	}
	plan := ipamPlan{kind: conf.Type}
	var err error
	switch conf.Type {
	case "host-local":
		err = plan.addHostLocal(raw, conf)
	case "whereabouts":
		err = plan.addWhereabouts(raw, conf)
	case "static":
		err = plan.addAddresses(conf.Addresses)
	}
	return plan, err
}

func (p *ipamPlan) addHostLocal(raw json.RawMessage, conf ipamConf) error {
	var single hostLocalRange
	if err := json.Unmarshal(raw, &single); err != nil {
		return err
	}
	var all []hostLocalRange
	if single.Subnet != "" {
		all = append(all, single)
	}
	for _, set := range conf.Ranges {
		all = append(all, set...)
	}
	for _, r := range all {
		subnet, err := netip.ParsePrefix(r.Subnet)
		if err != nil {
			return fmt.Errorf("subnet %q: %w", r.Subnet, err)
		}
		// Without "gateway", host-local takes the first address.
		gateway := subnet.Masked().Addr().Next()
		if r.Gateway != "" {
			if gateway, err = netip.ParseAddr(r.Gateway); err != nil {
				return fmt.Errorf("gateway %q: %w", r.Gateway, err)
			}
		}
		p.gateways = append(p.gateways, gateway.Unmap())
		if err := p.addRange(subnet, r.RangeStart, r.RangeEnd); err != nil {
			return err
		}
	}
	return nil
}

func (p *ipamPlan) addWhereabouts(raw json.RawMessage, conf ipamConf) error {
	var single whereaboutsRange
	if err := json.Unmarshal(raw, &single); err != nil {
		return err
	}
	all := conf.IPRanges
	if single.Range != "" {
		all = append([]whereaboutsRange{single}, all...)
	}
	if conf.Gateway != "" {
		gateway, err := netip.ParseAddr(conf.Gateway)
		if err != nil {
			return fmt.Errorf("gateway %q: %w", conf.Gateway, err)
		}
		p.gateways = append(p.gateways, gateway.Unmap())
	}
	for _, r := range all {
		if err := p.addWhereaboutsRange(r); err != nil {
			return err
		}
	}
	return p.addAddresses(conf.Addresses)
}

// addWhereaboutsRange reads "a.b.c.d/len", where host bits name the first address to give, and "from-to/len".
func (p *ipamPlan) addWhereaboutsRange(r whereaboutsRange) error {
	start, end, cidr := r.RangeStart, r.RangeEnd, r.Range
	if from, to, ok := strings.Cut(r.Range, "-"); ok {
		start, cidr = from, to
		end, _, _ = strings.Cut(to, "/")
	}
	subnet, err := netip.ParsePrefix(cidr)
	if err != nil {
		return fmt.Errorf("range %q: %w", r.Range, err)
	}
	if start == "" && subnet.Addr() != subnet.Masked().Addr() {
		start = subnet.Addr().String()
	}
	before := p.gives
	p.gives = Pool{}
	if err := p.addRange(subnet, start, end); err != nil {
		return err
	}
	for _, entry := range r.Exclude {
		cut, err := parseExclude(entry)
		if err != nil {
			return err
		}
		p.gives = p.gives.Without(newPool(cut))
	}
	p.gives = newPool(append(before.Ranges(), p.gives.ranges...)...)
	return nil
}

func parseExclude(entry string) (Range, error) {
	if prefix, err := netip.ParsePrefix(entry); err == nil {
		return Range{From: prefix.Masked().Addr(), To: lastAddr(prefix)}, nil
	}
	r, err := parseEntry(entry)
	if err != nil {
		return Range{}, fmt.Errorf("exclude: %w", err)
	}
	return r, nil
}

func (p *ipamPlan) addAddresses(addresses []ipamAddress) error {
	for _, a := range addresses {
		prefix, err := netip.ParsePrefix(a.Address)
		if err != nil {
			return fmt.Errorf("address %q: %w", a.Address, err)
		}
		p.subnets = append(p.subnets, prefix.Masked())
		p.gives = newPool(append(p.gives.ranges, Range{From: prefix.Addr(), To: prefix.Addr()})...)
		if a.Gateway == "" {
			continue
		}
		gateway, err := netip.ParseAddr(a.Gateway)
		if err != nil {
			return fmt.Errorf("gateway %q: %w", a.Gateway, err)
		}
		p.gateways = append(p.gateways, gateway.Unmap())
	}
	return nil
}

// addRange adds the part of the subnet from start to end; empty ends mean the subnet's first and last host.
func (p *ipamPlan) addRange(subnet netip.Prefix, start, end string) error {
	r := hosts(subnet)
	var err error
	if start != "" {
		if r.From, err = netip.ParseAddr(start); err != nil {
			return fmt.Errorf("range start %q: %w", start, err)
		}
	}
	if end != "" {
		if r.To, err = netip.ParseAddr(end); err != nil {
			return fmt.Errorf("range end %q: %w", end, err)
		}
	}
	r.From, r.To = r.From.Unmap(), r.To.Unmap()
	if !subnet.Contains(r.From) || !subnet.Contains(r.To) || r.To.Less(r.From) {
		return fmt.Errorf("range %s is empty or outside %s", r, subnet)
	}
	p.subnets = append(p.subnets, subnet.Masked())
	p.gives = newPool(append(p.gives.ranges, r)...)
	return nil
}
