// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"github.com/sluice-lb/sluice/bpf/bpftest"
)

// behindHeaders puts the extension headers before layer 4 that a host reads and then goes on behind: headersLen octets.
func behindHeaders(p bpftest.Packet) bpftest.Packet {
	return p.Options(bpftest.ExtHopByHop, 8).Options(bpftest.ExtDestination, 16).Routing(0).FragmentHeader(0, false)
}

const headersLen = 8 + 16 + 24 + 8

// extensionPaths are packets with extension headers to a VIP, and from a pod that has a flow.
func extensionPaths() map[string]path {
	in, out := fromClient(toAlice, "S"), fromAlice("S.")
	type chain = func(bpftest.Packet) bpftest.Packet
	served := func(headers chain) path {
		return one(
			ingress(headers(in), bpftest.OK, "NEW_FLOW").becomes(headers(atAlice(in))),
			egress(headers(out), bpftest.OK, "UNNAT").becomes(headers(out.Src(toAlice))))
	}
	// Each beside a flow that its ports, if they were read, would belong to.
	judged := func(headers chain, action bpftest.Action, toVIP string, fromPod step) path {
		steps := append(handshake(toAlice), bothWays(headers(in), action, toVIP)...)
		return one(append(steps, fromPod.called("from the pod"))...)
	}
	unsupported := func(headers chain) path {
		return judged(headers, bpftest.Drop, "UNSUPPORTED_PROTOCOL", egress(headers(out), bpftest.PassOn, "MISS"))
	}
	fragment := func(fromPod string, headers chain) path {
		action := map[string]bpftest.Action{"FRAGMENT": bpftest.Drop, "MISS": bpftest.PassOn}[fromPod]
		return judged(headers, bpftest.Drop, "FRAGMENT", egress(headers(out), action, fromPod))
	}
	cut := func(headers chain) path {
		return judged(headers, bpftest.PassOn, "MALFORMED", egress(headers(out), bpftest.PassOn, "MALFORMED"))
	}
	options := func(number uint8, octets ...int) chain {
		return func(p bpftest.Packet) bpftest.Packet {
			for _, n := range octets {
				p = p.Options(number, n)
			}
			return p
		}
	}
	return map[string]path{
		"all that are walked":  served(behindHeaders),
		"hop-by-hop options":   served(options(bpftest.ExtHopByHop, 8)),
		"destination options":  served(options(bpftest.ExtDestination, 24, 8)),
		"routing that is over": served(func(p bpftest.Packet) bpftest.Packet { return p.Routing(0) }),
		"atomic fragment":      served(func(p bpftest.Packet) bpftest.Packet { return p.FragmentHeader(0, false) }),
		"eight headers":        served(options(bpftest.ExtDestination, 8, 8, 8, 8, 8, 8, 8, 8)),
		"as far as we walk":    served(options(bpftest.ExtDestination, 456)),
		"traffic class and label stay": served(func(p bpftest.Packet) bpftest.Packet {
			return p.TrafficClass(0xb8).FlowLabel(0xabcde)
		}),

		"nine headers":                 unsupported(options(bpftest.ExtDestination, 8, 8, 8, 8, 8, 8, 8, 8, 8)),
		"further than we walk":         unsupported(options(bpftest.ExtDestination, 464)),
		"further than we walk, in two": unsupported(options(bpftest.ExtDestination, 232, 232)),
		"the longest header":           unsupported(options(bpftest.ExtDestination, 2048)),
		"hop-by-hop options second":    unsupported(options(bpftest.ExtHopByHop, 8, 8)),
		"routing that leads on":        unsupported(func(p bpftest.Packet) bpftest.Packet { return p.Routing(1) }),
		"AH":                           unsupported(bpftest.Packet.AH),
		"ESP":                          unsupported(options(bpftest.ExtESP, 8)),
		"no next header":               unsupported(options(bpftest.ExtNone, 8)),
		"unknown header":               unsupported(options(253, 8)),
		"AH behind what is walked":     unsupported(func(p bpftest.Packet) bpftest.Packet { return behindHeaders(p).AH() }),
		"hop-by-hop options misplaced": unsupported(func(p bpftest.Packet) bpftest.Packet {
			return p.Routing(0).Options(bpftest.ExtHopByHop, 8)
		}),
		"ESP in an atomic fragment": unsupported(func(p bpftest.Packet) bpftest.Packet {
			return p.FragmentHeader(0, false).Options(bpftest.ExtESP, 8)
		}),
		"first fragment": fragment("FRAGMENT", func(p bpftest.Packet) bpftest.Packet { return p.Fragment(0, true) }),
		"later fragment": fragment("MISS", func(p bpftest.Packet) bpftest.Packet { return p.Fragment(1232, true) }),
		"last fragment":  fragment("MISS", func(p bpftest.Packet) bpftest.Packet { return p.Fragment(1232, false) }),
		"first fragment behind headers": fragment("FRAGMENT", func(p bpftest.Packet) bpftest.Packet {
			return behindHeaders(p).Fragment(0, true)
		}),
		"headers behind a fragment": fragment("FRAGMENT", func(p bpftest.Packet) bpftest.Packet {
			return p.FragmentHeader(0, true).Options(bpftest.ExtDestination, 8)
		}),
		"atomic and then a fragment": fragment("FRAGMENT", func(p bpftest.Packet) bpftest.Packet {
			return p.FragmentHeader(0, false).Fragment(0, true)
		}),
		"a fragment and then atomic": fragment("FRAGMENT", func(p bpftest.Packet) bpftest.Packet {
			return p.FragmentHeader(0, true).FragmentHeader(0, false)
		}),
		"a fragment and then a later one": fragment("MISS", func(p bpftest.Packet) bpftest.Packet {
			return p.FragmentHeader(0, true).Fragment(8, false)
		}),
		"AH in a fragment": fragment("MISS", func(p bpftest.Packet) bpftest.Packet { return p.FragmentHeader(0, true).AH() }),
		"options that are cut off, with no ports behind them": cut(func(p bpftest.Packet) bpftest.Packet {
			return p.Options(bpftest.ExtDestination, 40).Options(bpftest.ExtESP, 8).Truncate(14 + 40 + 39)
		}),
		"the longest header, cut off": cut(func(p bpftest.Packet) bpftest.Packet {
			return p.Options(bpftest.ExtDestination, 2048).Truncate(1000)
		}),
		"headers of a first fragment, cut off": cut(func(p bpftest.Packet) bpftest.Packet {
			return p.FragmentHeader(0, true).Options(bpftest.ExtDestination, 16).Truncate(14 + 40 + 8 + 15)
		}),
		"a fragment header, cut off": cut(func(p bpftest.Packet) bpftest.Packet {
			return p.Fragment(1232, true).Truncate(14 + 40 + 7)
		}),
		"not to a VIP, cut off": one(
			ingress(behindHeaders(in.Dst(addrPort(nobody, 80))).Truncate(60), bpftest.PassOn, "MISS")),
	}
}

// mappedPaths are packets with an IPv4-mapped end, which would look like IPv4's in the maps.
func mappedPaths() map[string]path {
	const f = ipv6
	source := bpftest.TCP(addrPort(mapped, 40000), f.at(toAlice), "S").From(router).To(bpftest.Master)
	dest := source.Src(f.at(client)).Dst(addrPort(mapped, 80))
	beside := func(s step) path { // in a world where it is IPv4's VIP, too
		return path{setup: func(w *world) { (&world{LB: w.LB, family: ipv4}).populate() }, steps: []step{s}}
	}
	return map[string]path{
		"from one":              beside(ingress(source, bpftest.PassOn, "MISS")),
		"to one":                beside(ingress(dest, bpftest.PassOn, "MISS")),
		"from one, turned back": beside(egress(source, bpftest.ToPods, "TURNED_BACK")),
		"a solicitation for one": beside(ingress(
			bpftest.NeighborSolicitation(other, f.addr(neighbour.Addr), mapped), bpftest.PassOn, "MISS")),
	}
}
