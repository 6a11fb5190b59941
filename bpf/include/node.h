/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: the node as client of VIPs on a master in macvlan's passthru mode, whose rx handler runs after lb_ingress and gives
 * all unicast to the pod (macvlan_handle_frame in drivers/net/macvlan.c). Frames to a group it gives to the node's stack, and
 * to the pod as well if that has joined one of the same hash; not so those that come from a macvlan's own MAC. */
#pragma once

#include <linux/bpf.h>

#include "addresses.h"
#include "parse.h"
#include "rewrite.h"
#include "types.h"

#define NODE_GROUP_MAC 0x000000000003ULL /* 03:00:00:00:00:00, as load_mac gives it: a local group that nobody joins */
#define NO_MAC 0ULL			 /* the kernel gives it to no interface (is_valid_ether_addr) */

/* Lets a VIP's answer to the node, at ingress, pass by the pod; to: what its destination is. The stack goes by the type that
 * the packet got with its old MAC: for this host. */
static __always_inline enum reason to_node(struct __sk_buff *skb, const struct packet *p, const struct address_info *to)
{
	struct address_info *from;

	if (!to || to->kind != ADDRESS_NODE || !is_passthru(to->flags) || !is_master(p->dst_mac))
		return REASON_MISS;
	from = source(p);
	if (!from || from->kind != ADDRESS_VIP)
		return REASON_MISS;
	return rewrite_macs(skb, NODE_GROUP_MAC, NO_MAC) ? REASON_REWRITE : REASON_TO_NODE;
}
