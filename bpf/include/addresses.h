/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: whose address or MAC is it? The first question about every packet, and for foreign ones the last. */
#pragma once

#include <linux/bpf.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"
#include "parse.h"
#include "types.h"

static __always_inline struct station *find_station(__u32 ifindex, __u64 mac)
{
	struct station_key key = {.ifindex = ifindex};

	store_mac(key.mac, mac);
	return bpf_map_lookup_elem(&stations, &key);
}

static __always_inline int is_station(__u32 ifindex, __u64 mac, enum station_kind kind)
{
	struct station *station = find_station(ifindex, mac);

	return station && station->kind == kind;
}

static __always_inline int is_local_mac(__u32 ifindex, __u64 mac)
{
	return is_station(ifindex, mac, STATION_POD);
}

/* Whether a frame that a local pod sends is for a sibling, and one of them is in private mode. The kernel keeps such pods
 * apart by nothing but their not hearing each other's ARP, which we answer: a switch that reflects would let them talk. */
static __noinline int is_isolated(struct __sk_buff *skb, const struct packet *p)
{
	struct station *to = find_station(skb->ifindex, p->dst_mac), *from;

	if (!to || to->kind != STATION_POD)
		return 0;
	if (to->flags & STATION_PRIVATE)
		return 1;
	from = find_station(skb->ifindex, p->src_mac);
	return from && from->flags & STATION_PRIVATE;
}

/* Whether a packet comes from this node, be it a pod or the host. At egress all do. ipvlans send what is for their common MAC
 * straight to ingress (ipvlan_xmit_mode_l2 in drivers/net/ipvlan/ipvlan_core.c). */
static __always_inline int is_from_here(const struct packet *p, enum direction dir)
{
	return dir == DIRECTION_EGRESS || (p->master & MASTER_IPVLAN && is_master(p->src_mac));
}

/* Whether the pod of a master in macvlan's passthru mode gets all unicast, also what is for the node's own stack. */
static __always_inline int is_passthru(__u8 master)
{
	return (master & (MASTER_SHARED | MASTER_IPVLAN)) == MASTER_SHARED;
}

/* What this node must do with a packet to a VIP. */
enum role {
	ROLE_NONE,    /* nothing: a switch flooded it here */
	ROLE_OWNER,   /* choose a backend */
	ROLE_BACKEND, /* deliver it to the pod whose MAC it has: an owner has chosen */
};

/* At egress everything comes from this node, and nobody has chosen. At ingress the destination MAC tells; where a pod
 * shares the master's, it does not, and the source must: owners send on in their own name. */
static __always_inline enum role role_of(struct __sk_buff *skb, const struct packet *p, enum direction dir)
{
	if (dir == DIRECTION_EGRESS)
		return ROLE_OWNER;
	if (!is_master(p->dst_mac))
		return is_local_mac(skb->ifindex, p->dst_mac) ? ROLE_BACKEND : ROLE_NONE;
	if (p->master & MASTER_SHARED && is_station(skb->ifindex, p->src_mac, STATION_PEER))
		return ROLE_BACKEND;
	return ROLE_OWNER;
}

static __always_inline struct address_info *source(const struct packet *p)
{
	struct address_key key = {.addr = p->key.src, .ifindex = p->key.ifindex};

	return bpf_map_lookup_elem(&addresses, &key);
}

/* The first look-up of every packet: its key lies ready in the flow's, and is not copied. */
static __always_inline struct address_info *destination(const struct packet *p)
{
	_Static_assert(offsetof(struct flow_key, ifindex) - offsetof(struct flow_key, dst) ==
			       offsetof(struct address_key, ifindex),
		       "a flow's destination and interface form an address_key");
	return bpf_map_lookup_elem(&addresses, (const struct address_key *)&p->key.dst);
}

/* Whether the node itself, or who hides behind its address, sent the packet. */
static __always_inline int is_from_node(const struct packet *p)
{
	struct address_info *from = source(p);

	return from && from->kind == ADDRESS_NODE;
}
