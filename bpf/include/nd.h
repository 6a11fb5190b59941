/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: the Neighbor Discovery responder (RFC 4861 section 7.2.4). */
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

#define ICMPV6_NEIGHBOR_SOLICITATION 135
#define ICMPV6_NEIGHBOR_ADVERTISEMENT 136
#define ND_HOP_LIMIT 255
#define ND_SOLICITED bpf_htonl(0x40000000)
#define ND_OVERRIDE bpf_htonl(0x20000000)
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

/* An advertisement with what its checksum covers besides (RFC 8200 section 8.1), and so in one piece for the helper. */
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

static __always_inline __sum16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__sum16)~sum;
}

/* Writes the advertisement over the solicitation. Anything but 0: half written, drop it. */
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
	ip->hop_limit = ND_HOP_LIMIT;
	__builtin_memcpy(&ip->saddr, &a->src, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &a->dst, sizeof(ip->daddr));
	__builtin_memcpy(ip + 1, &a->body, sizeof(a->body));
	return 0;
}

/* Turns a solicitation that this node answers into the advertisement, in place, and sends it back to where it came from.
 * Returns the reason, and the action in *action. */
static __noinline enum reason nd(struct __sk_buff *skb, const struct packet *p, enum direction dir, int *action)
{
	struct checked_advertisement a = {};
	struct address_key key = {.ifindex = skb->ifindex};
	struct neighbor_message ns;
	__u8 hop_limit;
	__s64 sum;

	if (bpf_skb_load_bytes(skb, p->l4, &ns.type, sizeof(ns.type)) || ns.type != ICMPV6_NEIGHBOR_SOLICITATION)
		return REASON_MISS;
	if (bpf_skb_load_bytes(skb, p->l4, &ns, sizeof(ns)) ||
	    bpf_skb_load_bytes(skb, sizeof(struct ethhdr) + offsetof(struct ipv6hdr, hop_limit), &hop_limit, 1))
		return REASON_MALFORMED;
	/* A hop limit below 255 means that a router passed it on: not a neighbour's (RFC 4861 section 7.1.1). */
	if (ns.code || hop_limit != ND_HOP_LIMIT)
		return REASON_MISS;
	/* Unicast solicitations are neighbours' reachability probes; one to another station was flooded here. */
	if (dir == DIRECTION_INGRESS && !(p->dst_mac & 1) && !is_master(p->dst_mac))
		return REASON_MISS;
	key.addr = ns.target;
	if (!answers_for(&key, dir, p->src_mac, a.body.option.mac))
		return REASON_MISS;

	a.src = ns.target;
	a.body.message.type = ICMPV6_NEIGHBOR_ADVERTISEMENT;
	a.body.message.target = ns.target;
	a.body.message.flags = ND_OVERRIDE;
	a.body.option.type = ND_OPTION_TARGET_MAC;
	a.body.option.len = sizeof(a.body.option) / 8;
	if (is_zero(&p->key.src)) {
		/* Somebody is about to take the address (RFC 4862 section 5.4): all nodes shall hear that it is taken. */
		a.dst.word[0] = bpf_htonl(0xff020000);
		a.dst.word[3] = bpf_htonl(1);
	} else {
		a.dst = p->key.src;
		a.body.message.flags |= ND_SOLICITED;
	}
	a.len = bpf_htonl(sizeof(a.body));
	a.proto = bpf_htonl(IPPROTO_ICMPV6);
	sum = bpf_csum_diff(NULL, 0, (void *)&a, sizeof(a), 0);
	if (sum < 0)
		return REASON_REWRITE;
	a.body.message.check = fold(sum);
	/* The sender's own MAC, not its option's: it is the one that a switch has just learnt. */
	if (write_advertisement(skb, &a, is_zero(&p->key.src) ? ALL_NODES_MAC : p->src_mac))
		return REASON_REWRITE;
	*action = send_answer(skb, dir);
	return REASON_ND_REPLY;
}
