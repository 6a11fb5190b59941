// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"math/big"
	"net/netip"
	"slices"
	"strings"
)

// Range is a run of addresses of one family, both ends included.
type Range struct {
	From, To netip.Addr
}

// Contains tells whether the address lies in the range.
func (r Range) Contains(a netip.Addr) bool {
	return a.BitLen() == r.From.BitLen() && r.From.Compare(a) <= 0 && a.Compare(r.To) <= 0
}

// Overlaps tells whether the ranges share an address.
func (r Range) Overlaps(o Range) bool {
	return r.From.BitLen() == o.From.BitLen() && r.From.Compare(o.To) <= 0 && o.From.Compare(r.To) <= 0
}

// Len gives the number of addresses; math.MaxUint64 stands for that many or more.
func (r Range) Len() uint64 {
	from, to := new(big.Int).SetBytes(r.From.AsSlice()), new(big.Int).SetBytes(r.To.AsSlice())
	n := to.Sub(to, from).Add(to, big.NewInt(1))
	if !n.IsUint64() {
		return math.MaxUint64
	}
	return n.Uint64()
}

// String gives "from-to", or the address if it is a single one. ParsePool reads it back.
func (r Range) String() string {
	if r.From == r.To {
		return r.From.String()
	}
	return r.From.String() + "-" + r.To.String()
}

// Pool is a set of addresses, of both families. It is immutable, and its zero value is empty. Two pools with the same
// addresses are Equal, however they were written.
type Pool struct {
	ranges []Range // sorted, disjoint, and as few as possible
}

// ParsePool reads a list of single addresses, CIDRs and ranges "from-to". A CIDR of IPv4 with a prefix of /30 or
// shorter stands for its host addresses: the first and the last are left out. Only unicast addresses that a neighbour
// can ask for are accepted.
func ParsePool(entries []string) (Pool, error) {
	ranges := make([]Range, 0, len(entries))
	for _, entry := range entries {
		r, err := parseEntry(entry)
		if err != nil {
			return Pool{}, err
		}
		if err := checkUnicast(entry, r); err != nil {
			return Pool{}, err
		}
		ranges = append(ranges, r)
	}
	return newPool(ranges...), nil
}

func newPool(ranges ...Range) Pool {
	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b Range) int {
		return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To))
	})
	var merged []Range
	for _, r := range sorted {
		if len(merged) == 0 {
			merged = append(merged, r)
			continue
		}
		last := &merged[len(merged)-1]
		if !last.Overlaps(r) && last.To.Next() != r.From {
			merged = append(merged, r)
		} else if last.To.Less(r.To) {
			last.To = r.To
		}
	}
	return Pool{ranges: merged}
}

// Ranges gives the pool as disjoint ranges, IPv4 first, in ascending order.
func (p Pool) Ranges() []Range { return slices.Clone(p.ranges) }

// IsEmpty tells whether the pool has no address.
func (p Pool) IsEmpty() bool { return len(p.ranges) == 0 }

// Contains tells whether the address is in the pool.
func (p Pool) Contains(a netip.Addr) bool {
	return slices.ContainsFunc(p.ranges, func(r Range) bool { return r.Contains(a) })
}

// Equal tells whether both pools have the same addresses.
func (p Pool) Equal(o Pool) bool { return slices.Equal(p.ranges, o.ranges) }

// Overlaps tells whether the pools share an address.
func (p Pool) Overlaps(o Pool) bool { return !p.Intersect(o).IsEmpty() }

// Intersect gives the addresses that are in both pools.
func (p Pool) Intersect(o Pool) Pool {
	var out []Range
	for _, a := range p.ranges {
		for _, b := range o.ranges {
			if a.Overlaps(b) {
				out = append(out, Range{From: maxAddr(a.From, b.From), To: minAddr(a.To, b.To)})
			}
		}
	}
	return newPool(out...)
}

// Without gives the addresses of p that are not in o.
func (p Pool) Without(o Pool) Pool {
	rest := p.ranges
	for _, cut := range o.ranges {
		var next []Range
		for _, r := range rest {
			if !r.Overlaps(cut) {
				next = append(next, r)
				continue
			}
			if r.From.Less(cut.From) {
				next = append(next, Range{From: r.From, To: cut.From.Prev()})
			}
			if cut.To.Less(r.To) {
				next = append(next, Range{From: cut.To.Next(), To: r.To})
			}
		}
		rest = next
	}
	return newPool(rest...)
}

// IPv4 gives the IPv4 addresses of the pool.
func (p Pool) IPv4() Pool { return p.ofBits(32) }

// IPv6 gives the IPv6 addresses of the pool.
func (p Pool) IPv6() Pool { return p.ofBits(128) }

func (p Pool) ofBits(bits int) Pool {
	var out []Range
	for _, r := range p.ranges {
		if r.From.BitLen() == bits {
			out = append(out, r)
		}
	}
	return Pool{ranges: out}
}

// Len gives the number of addresses; math.MaxUint64 stands for that many or more.
func (p Pool) Len() uint64 {
	var sum uint64
	for _, r := range p.ranges {
		n := r.Len()
		if n > math.MaxUint64-sum {
			return math.MaxUint64
		}
		sum += n
	}
	return sum
}

// All yields the addresses in ascending order, IPv4 first. An IPv6 pool may be far too large to be walked to its end.
func (p Pool) All() iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for _, r := range p.ranges {
			for a := r.From; ; a = a.Next() {
				if !yield(a) {
					return
				}
				if a == r.To {
					break
				}
			}
		}
	}
}

// String gives the ranges, separated by commas.
func (p Pool) String() string {
	words := make([]string, len(p.ranges))
	for i, r := range p.ranges {
		words[i] = r.String()
	}
	return strings.Join(words, ", ")
}

func parseEntry(entry string) (Range, error) {
	if from, to, ok := strings.Cut(entry, "-"); ok {
		return parseSpan(entry, from, to)
	}
	if strings.Contains(entry, "/") {
		prefix, err := netip.ParsePrefix(entry)
		if err != nil {
			return Range{}, fmt.Errorf("%q is no CIDR: write one such as 192.168.20.240/28", entry)
		}
		if prefix != prefix.Masked() {
			return Range{}, fmt.Errorf("%q has host bits: write %s for the block, or %s for the one address",
				entry, prefix.Masked(), prefix.Addr())
		}
		return hosts(prefix), nil
	}
	a, err := parseAddr(entry)
	if err != nil {
		return Range{}, err
	}
	return Range{From: a, To: a}, nil
}

func parseSpan(entry, from, to string) (Range, error) {
	lo, err := parseAddr(strings.TrimSpace(from))
	if err != nil {
		return Range{}, fmt.Errorf("range %q: %w", entry, err)
	}
	hi, err := parseAddr(strings.TrimSpace(to))
	if err != nil {
		return Range{}, fmt.Errorf("range %q: %w", entry, err)
	}
	if lo.BitLen() != hi.BitLen() {
		return Range{}, fmt.Errorf("range %q mixes IPv4 and IPv6: write one range for each family", entry)
	}
	if hi.Less(lo) {
		return Range{}, fmt.Errorf("range %q is reversed: write %s-%s", entry, hi, lo)
	}
	return Range{From: lo, To: hi}, nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf(
			"%q is no address: write one such as 192.168.20.240, a CIDR, or a range \"from-to\"", s)
	}
	if a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q has a zone: leave out %q", s, "%"+a.Zone())
	}
	return a, nil
}

// hosts gives the addresses of a block that a host may have. The first of an IPv6 subnet is that of its routers (RFC 4291
// section 2.6.1); a block below 64 bits is part of a subnet.
func hosts(p netip.Prefix) Range {
	r := Range{From: p.Masked().Addr(), To: lastAddr(p)}
	switch {
	case p.Addr().Is4() && p.Bits() <= 30:
		r.From, r.To = r.From.Next(), r.To.Prev()
	case p.Addr().Is6() && p.Bits() <= 64:
		r.From = r.From.Next()
	}
	return r
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	last, _ := netip.AddrFromSlice(b) // 4 or 16 octets, as AsSlice gave them
	return last
}

// unusable lists what no neighbour asks for by ARP or ND, or asks for on every link (link-local).
var unusable = []struct{ prefix, why string }{
	{"0.0.0.0/8", "\"this network\" addresses"},
	{"127.0.0.0/8", "loopback addresses"},
	{"224.0.0.0/3", "multicast, reserved or broadcast addresses"},
	{"::/127", "the unspecified or the loopback address"},
	{"::ffff:0:0/96", "IPv4-mapped addresses"},
	{"fe80::/10", "link-local addresses"},
	{"ff00::/8", "multicast addresses"},
}

func checkUnicast(entry string, r Range) error {
	for _, u := range unusable {
		p := netip.MustParsePrefix(u.prefix)
		if r.Overlaps(Range{From: p.Addr(), To: lastAddr(p)}) {
			return fmt.Errorf("%q holds %s (%s): use unicast addresses of the network", entry, u.why, u.prefix)
		}
	}
	return nil
}

func minAddr(a, b netip.Addr) netip.Addr {
	if b.Less(a) {
		return b
	}
	return a
}

func maxAddr(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return b
	}
	return a
}
