/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: whom the programs tell which link-layer address. ARP and ND differ only in form, which is theirs. No VIP is ever
 * configured on an interface; these answers are all there is of it. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

#include "addresses.h"
#include "maps.h"
#include "parse.h"
#include "types.h"

/* Whether this hook answers a request for key's address; the answer's MAC goes to mac. Also notes in p what the master is.
 *
 * From the wire: for a VIP that this node owns, and for pods that cannot answer themselves. From local pods and from the node
 * itself: for every VIP, whoever owns it, because this node balances what they send; and among themselves where the kernel
 * keeps them apart and neither would ever hear the other's request: any macvlan and the host, and pods that are not in bridge
 * mode. */
static __always_inline int answers_for(const struct address_key *key, struct packet *p, enum direction dir, __u8 *mac)
{
	struct address_info *info = bpf_map_lookup_elem(&addresses, key);

	if (!info)
		return 0;
	__builtin_memcpy(mac, info->mac, ETH_ALEN);
	p->master = info->flags;
	if (!is_from_here(p, dir)) {
		if (info->kind == ADDRESS_POD)
			return info->flags & MASTER_ROUTED;
		return info->kind == ADDRESS_VIP && bpf_map_lookup_elem(&owners, key) != NULL;
	}
	/* Who has the address asks whether anyone else does (RFC 5227 section 2.1). */
	if (info->kind == ADDRESS_POD)
		return load_mac(info->mac) != p->src_mac && (is_master(p->src_mac) || info->flags & MASTER_APART);
	if (info->kind == ADDRESS_NODE)
		return !is_master(p->src_mac);
	return 1;
}

/* The answer goes back to where the request came from. */
static __always_inline int send_answer(struct __sk_buff *skb, const struct packet *p, enum direction dir)
{
	return bpf_redirect(skb->ifindex, is_from_here(p, dir) ? BPF_F_INGRESS : 0);
}
