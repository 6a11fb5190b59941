//go:build ignore

/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The load balancer: one program for each direction of a master interface.
 *
 *   wire --> lb_ingress --> macvlan rx handler --> pod        pod --> macvlan --> lb_egress --> wire
 *                ^                                                                   |
 *                +------------------- what must not leave the node ------------------+
 *
 * A packet's first look-up tells whether it can be ours at all. To a VIP: a flow that this node remembers, or a choice
 * (a tuple has one of them, never both), wins over the table. From a local pod: a flow, or it is none of ours. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "addresses.h"
#include "arp.h"
#include "balance.h"
#include "extensions.h"
#include "icmp.h"
#include "nd.h"
#include "node.h"
#include "tags.h"

/* Leaves the packet to the next program: TCX_NEXT, and for clsact the next filter. */
#define PASS_ON TC_ACT_UNSPEC

static __always_inline int is_drop(enum reason reason)
{
	return reason >= REASON_NOT_OWNER;
}

static __always_inline int is_served(enum reason reason)
{
	return reason >= REASON_ARP_REPLY && !is_drop(reason);
}

/* A packet to a VIP. */
static __always_inline enum reason to_vip(struct __sk_buff *skb, struct packet *p, enum direction dir, int *action)
{
	enum role role = role_of(skb, p, dir);
	struct found found;
	enum reason reason;

	if (role == ROLE_NONE)
		return REASON_FLOODED;
	if (!find_transport(skb, p))
		return REASON_MALFORMED;
	if (p->fragment)
		return REASON_FRAGMENT;
	if (is_icmp(p))
		return icmp_to_vip(skb, p, dir, role, action);
	if (!has_ports(p))
		return REASON_UNSUPPORTED_PROTOCOL;
	if (!parse_ports(skb, p))
		return REASON_MALFORMED;
	if (role == ROLE_OWNER) {
		reason = repeat_choice(skb, p, dir, action);
		if (reason)
			return reason;
	}
	found = find_flow(&p->key);
	if (found.flow) {
		if (found.flow->flags & FLOW_REPLY)
			return unnat(skb, p, found.flow, dir, action);
		reason = continue_flow(skb, p, &found, dir, action);
		if (reason)
			return reason;
	}
	return place(skb, p, dir, role == ROLE_BACKEND, action);
}

/* A packet from a local pod's address to anything but a VIP. */
static __always_inline enum reason from_pod(struct __sk_buff *skb, struct packet *p, enum direction dir, int *action)
{
	struct found found;

	if (!find_transport(skb, p))
		return REASON_MALFORMED;
	if (is_icmp(p))
		return icmp_from_pod(skb, p, dir, action);
	if (!has_ports(p))
		return REASON_MISS;
	if (!parse_ports(skb, p))
		return REASON_MALFORMED;
	found = find_flow(&p->key);
	if (!found.flow || !(found.flow->flags & FLOW_REPLY))
		return REASON_MISS;
	/* At ingress a local pod's frames are those to its siblings; a copy that a switch sent back is not. */
	if (dir == DIRECTION_INGRESS && !is_local_mac(skb->ifindex, p->dst_mac))
		return REASON_FLOODED;
	if (p->fragment)
		return REASON_FRAGMENT;
	return unnat(skb, p, found.flow, dir, action);
}

/* Unicast between the node and its own pods leaves by the master and would be lost on the wire. */
static __always_inline enum reason turn_back(struct __sk_buff *skb, struct packet *p, int *action)
{
	if (!is_master(p->dst_mac) && !(is_master(p->src_mac) && is_local_mac(skb->ifindex, p->dst_mac)))
		return REASON_MISS;
	*action = bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	return REASON_TURNED_BACK;
}

static __always_inline enum reason balance(struct __sk_buff *skb, enum direction dir, int *action)
{
	struct address_info *from, *to = NULL;
	enum reason reason = REASON_MISS;
	enum parsed parsed;
	struct packet p;

	parsed = is_tagged(skb) ? PARSED_TAGGED : parse(skb, &p);
	if (parsed == PARSED_TAGGED)
		return REASON_TAGGED;
	if (parsed == PARSED_MALFORMED)
		return REASON_MALFORMED;
	/* What arrived by this very master leaves in our name, for another station, only if lb_ingress sent it on. A pod
	 * that shares the MAC and routes has an interface of its own, whose index may be the same number. */
	if (dir == DIRECTION_EGRESS && skb->ingress_ifindex == skb->ifindex && is_master(p.src_mac) &&
	    !is_master(p.dst_mac))
		return REASON_FORWARDED;
	if (parsed == PARSED_ARP) {
		reason = arp(skb, &p, dir, action);
	} else if (parsed == PARSED_IP) {
		if (is_nd(skb, &p)) {
			reason = nd(skb, &p, dir, action);
			if (dir == DIRECTION_INGRESS && reason == REASON_MISS)
				reason = to_node(skb, &p, destination(&p));
		} else if ((to = destination(&p)) && to->kind == ADDRESS_VIP) {
			p.master = to->flags;
			return to_vip(skb, &p, dir, action);
		} else if (dir == DIRECTION_INGRESS) {
			reason = to_node(skb, &p, to);
		}
		/* At ingress a local pod's frames are those to its siblings, never to the master. */
		from = dir == DIRECTION_EGRESS || !is_master(p.dst_mac) ? source(&p) : NULL;
		if (reason == REASON_MISS && from && from->kind == ADDRESS_POD) {
			p.master = from->flags;
			reason = from_pod(skb, &p, dir, action);
			if (reason == REASON_MISS && dir == DIRECTION_EGRESS && p.master & MASTER_APART &&
			    is_isolated(skb, &p))
				return REASON_ISOLATED;
		}
	}
	/* What is for an ipvlan and yet leaves shall go by the switch, as their flag vepa has it. */
	if (reason == REASON_MISS && dir == DIRECTION_EGRESS &&
	    !(to && to->kind == ADDRESS_POD && to->flags & MASTER_IPVLAN))
		reason = turn_back(skb, &p, action);
	return reason;
}

/* The only way out of both programs. */
static __always_inline int run(struct __sk_buff *skb, enum direction dir)
{
	int action = TC_ACT_OK;
	enum reason reason = balance(skb, dir, &action);
	__u32 slot = dir * REASON_MAX + reason;
	__u64 *count = bpf_map_lookup_elem(&counters, &slot);

	if (count)
		(*count)++;
	if (is_drop(reason))
		return TC_ACT_SHOT;
	return is_served(reason) ? action : PASS_ON;
}

#ifndef SLUICE_BENCH
SEC("tc")
int lb_ingress(struct __sk_buff *skb)
{
	return run(skb, DIRECTION_INGRESS);
}

SEC("tc")
int lb_egress(struct __sk_buff *skb)
{
	return run(skb, DIRECTION_EGRESS);
}
#endif

char _license[] SEC("license") = "GPL";
