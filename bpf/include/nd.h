/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: the Neighbor Discovery responder (RFC 4861 section 7.2.4). What is not answered is left alone, to the VIP
 * too: it is for the stacks of its link. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"
#include "neighbour.h"
#include "parse.h"
#include "rewrite.h"
#include "types.h"

#define ICMPV6_ROUTER_SOLICITATION 133
#define ICMPV6_NEIGHBOR_SOLICITATION 135
#define ICMPV6_NEIGHBOR_ADVERTISEMENT 136
#define ICMPV6_REDIRECT 137
#define ND_HOP_LIMIT 255
#define ND_SOLICITED bpf_htonl(0x40000000)
#define ND_OVERRIDE bpf_htonl(0x20000000)
#define ND_OPTION_SOURCE_MAC 1
#define ND_OPTION_TARGET_MAC 2
#define ALL_NODES_MAC 0x010000003333ULL /* 33:33:00:00:00:01 (RFC 2464 section 7), as load_mac gives it */

/* RFC 4861 sections 4.3 and 4.4. */
struct neighbor_message {
	__u8 type;
	__u8 code;
	__sum16 check;
	__be32 flags;
	struct address target;
};

_Static_assert(sizeof(struct neighbor_message) == 24, "RFC 4861");

/* RFC 4861 section 4.6.1. */
struct link_layer_option {
	__u8 type;
	__u8 len; /* in units of 8 octets */
	__u8 mac[6];
};

struct advertisement {
	struct neighbor_message message;
	struct link_layer_option option;
};

/* An advertisement with what its checksum covers besides (RFC 8200 section 8.1). */
struct checked_advertisement {
	struct address src;
	struct address dst;
	__be32 len;
	__be32 proto;
	struct advertisement body;
};

_Static_assert(sizeof(struct checked_advertisement) == 72, "no hidden padding under a checksum");

static __always_inline int is_zero(const struct address *a)
{
	return !(a->word[0] | a->word[1] | a->word[2] | a->word[3]);
}

static __always_inline int is_multicast(const struct address *a)
{
	return (a->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

/* ff02::1:ff00:0/104 (RFC 4291 section 2.7.1). */
static __always_inline int is_solicited_node(const struct address *a)
{
	return a->word[0] == bpf_htonl(0xff020000) && !a->word[1] && a->word[2] == bpf_htonl(1) &&
	       (a->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

static __always_inline __u64 add_words(__u64 sum, const __be32 *word, int count)
{
#pragma unroll
	for (int i = 0; i < count; i++)
		sum += word[i];
	return sum;
}

/* Whether the packet is a message of Neighbor Discovery, with no extension header before it. */
static __always_inline int is_nd(struct __sk_buff *skb, const struct packet *p)
{
	__u8 type;

	return p->ipv6 && p->key.proto == IPPROTO_ICMPV6 && bpf_skb_load_bytes(skb, p->l4, &type, sizeof(type)) == 0 &&
	       type >= ICMPV6_ROUTER_SOLICITATION && type <= ICMPV6_REDIRECT;
}

/* RFC 4861 section 7.1.1, as far as the message itself tells; len: its octets. Option by option, in their unit of 8. */
static __noinline int is_valid(struct __sk_buff *skb, const struct packet *p, const struct neighbor_message *ns,
			       __u32 len)
{
	__u64 sum = (__u64)bpf_htonl(len) + bpf_htonl(IPPROTO_ICMPV6);
	__u32 offset = p->l4 + sizeof(*ns), end = p->l4 + len, left = 0;
	int unspecified = is_zero(&p->key.src);

	sum = add_words(sum, p->key.src.word, 4);
	sum = add_words(sum, p->key.dst.word, 4);
	sum = add_words(sum, (const __be32 *)ns, sizeof(*ns) / 4);
	for (int i = 0; i < L4_OFFSET_MASK / 8 && offset < end; i++) {
		union {
			struct link_layer_option option;
			__be32 word[2];
		} unit;

		if (bpf_skb_load_bytes(skb, offset, &unit, sizeof(unit)))
			return 0;
		if (!left) {
			if (!unit.option.len || (unspecified && unit.option.type == ND_OPTION_SOURCE_MAC))
				return 0;
			left = unit.option.len;
		}
		left--;
		offset += sizeof(unit);
		sum = add_words(sum, unit.word, 2);
	}
	return !left && offset == end && !fold(sum) && (!unspecified || is_solicited_node(&p->key.dst));
}

/* Writes the advertisement over the solicitation. Both sums are right, so that of the whole packet stays what it was,
 * and with it a COMPLETE skb->csum. Anything but 0: half written, drop it. */
static __always_inline int write_advertisement(struct __sk_buff *skb, const struct checked_advertisement *a,
					       __u64 dst_mac)
{
	const __u32 len = sizeof(struct ethhdr) + sizeof(struct ipv6hdr) + sizeof(a->body);
	struct ethhdr *eth;
	struct ipv6hdr *ip;

	/* The solicitation's options differ in number and size. */
	if (skb->len != len && bpf_skb_change_tail(skb, len, 0))
		return -1;
	if (!linear(skb, len))
		return -1;
	eth = frame(skb);
	ip = (void *)(eth + 1);
	if ((void *)(ip + 1) + sizeof(a->body) > frame_end(skb))
		return -1;
	store_mac(eth->h_dest, dst_mac);
	__builtin_memcpy(eth->h_source, a->body.option.mac, ETH_ALEN);
	ip->payload_len = bpf_htons(sizeof(a->body));
	__builtin_memcpy(&ip->saddr, &a->src, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &a->dst, sizeof(ip->daddr));
	__builtin_memcpy(ip + 1, &a->body, sizeof(a->body));
	return 0;
}

/* The answer to a solicitation from src for target, but for the MAC in its option and its checksum. */
static __always_inline void prepare(struct checked_advertisement *a, const struct address *src,
				    const struct address *target)
{
	a->src = *target;
	a->body.message.type = ICMPV6_NEIGHBOR_ADVERTISEMENT;
	a->body.message.target = *target;
	a->body.message.flags = ND_OVERRIDE;
	a->body.option.type = ND_OPTION_TARGET_MAC;
	a->body.option.len = sizeof(a->body.option) / 8;
	a->len = bpf_htonl(sizeof(a->body));
	a->proto = bpf_htonl(IPPROTO_ICMPV6);
	if (is_zero(src)) {
		/* Somebody is about to take the address (RFC 4862 section 5.4): all nodes shall hear that it is taken. */
		a->dst.word[0] = bpf_htonl(0xff020000);
		a->dst.word[3] = bpf_htonl(1);
	} else {
		a->dst = *src;
		a->body.message.flags |= ND_SOLICITED;
	}
}

/* Turns a solicitation that this node answers into the advertisement, in place, and sends it back to where it came
 * from. Returns the reason, and the action in *action. */
static __noinline enum reason nd(struct __sk_buff *skb, struct packet *p, enum direction dir, int *action)
{
	struct checked_advertisement a = {};
	struct address_key key = {.ifindex = skb->ifindex};
	struct neighbor_message ns;
	struct ipv6hdr *ip;
	__u8 hop_limit;
	__u32 len;

	if (bpf_skb_load_bytes(skb, p->l4, &ns.type, sizeof(ns.type)) || ns.type != ICMPV6_NEIGHBOR_SOLICITATION)
		return REASON_MISS;
	ip = frame(skb) + sizeof(struct ethhdr);
	if ((void *)(ip + 1) > frame_end(skb))
		return REASON_MALFORMED;
	len = bpf_ntohs(ip->payload_len);
	hop_limit = ip->hop_limit;
	if (len < sizeof(ns) || bpf_skb_load_bytes(skb, p->l4, &ns, sizeof(ns)))
		return REASON_MALFORMED;
	/* A hop limit below 255 means that a router passed it on: not a neighbour's. Nor is what comes from a group. */
	if (ns.code || hop_limit != ND_HOP_LIMIT || is_multicast(&p->key.src) || is_mapped(&ns.target) ||
	    p->l4 + len > L4_OFFSET_MASK)
		return REASON_MISS;
	/* Unicast solicitations are neighbours' reachability probes; one to another station was flooded here. */
	if (dir == DIRECTION_INGRESS && !(p->dst_mac & 1) && !is_master(p->dst_mac))
		return REASON_MISS;
	key.addr = ns.target;
	if (!answers_for(&key, p, dir, a.body.option.mac))
		return REASON_MISS;
	if (!is_valid(skb, p, &ns, len))
		return REASON_MALFORMED;

	prepare(&a, &p->key.src, &ns.target);
	a.body.message.check = fold(add_words(0, (const __be32 *)&a, sizeof(a) / 4));
	/* The sender's own MAC, not its option's: it is the one that a switch has just learnt. */
	if (write_advertisement(skb, &a, is_zero(&p->key.src) ? ALL_NODES_MAC : p->src_mac))
		return REASON_REWRITE;
	*action = send_answer(skb, p, dir);
	return REASON_ND_REPLY;
}
