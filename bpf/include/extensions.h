/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: from IP's header to layer 4. IPv4 has nothing in between; for IPv6 this goes on where parse.h stopped, once
 * the addresses concern us. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "parse.h"

#define IPV6_MORE_FRAGMENTS bpf_htons(0x0001)
#define IPV6_FRAGMENT_OFFSET bpf_htons(0xfff8)

/* Hosts may limit the chain likewise (RFC 8504 section 5.3). */
#define EXTENSIONS_MAX 8

/* Walks IPv6's extension headers (RFC 8200 section 4). Stops, with its number as protocol, at a header behind which
 * there is nothing to translate: ESP and AH, whose checks cover what we would change; a routing header that leads on
 * to elsewhere; hop-by-hop options out of their place; any header beyond the limits. Returns false if one is cut off.
 * */
static __noinline int walk_extensions(struct __sk_buff *skb, struct packet *p)
{
	__u32 offset = p->l4;
	__u8 proto = p->key.proto;

	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		__u8 header[8]; /* every extension header has as many at least */
		__u32 len;

		if (proto != IPPROTO_HOPOPTS && proto != IPPROTO_DSTOPTS && proto != IPPROTO_ROUTING &&
		    proto != IPPROTO_FRAGMENT)
			break;
		if (proto == IPPROTO_HOPOPTS && i > 0)
			break;
		if (bpf_skb_load_bytes(skb, offset, header, sizeof(header)))
			return 0;
		len = (header[1] + 1) * 8;
		if (proto == IPPROTO_ROUTING && header[3]) /* segments left */
			break;
		if (proto == IPPROTO_FRAGMENT) {
			__be16 where = *(__be16 *)&header[2];

			len = sizeof(header);
			if (where & IPV6_FRAGMENT_OFFSET)
				p->fragment = FRAGMENT_LATER;
			else if (where & IPV6_MORE_FRAGMENTS)
				p->fragment = FRAGMENT_FIRST;
		}
		if (offset + len > skb->len)
			return 0;
		if (offset + len > L4_OFFSET_MASK)
			break;
		offset += len;
		proto = header[0];
		if (p->fragment == FRAGMENT_LATER)
			break;
	}
	p->key.proto = proto;
	p->l4 = offset;
	return 1;
}

/* Goes on where parse stopped, once the addresses concern us: to layer 4. Returns false if a header before it is cut
 * off. */
static __always_inline int find_transport(struct __sk_buff *skb, struct packet *p)
{
	if (!p->ipv6 || p->key.proto == IPPROTO_TCP || p->key.proto == IPPROTO_UDP)
		return 1;
	return walk_extensions(skb, p);
}
