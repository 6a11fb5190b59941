/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: the ARP responder (RFC 826, RFC 5227). No VIP is ever configured on an interface; this is all there is. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"
#include "parse.h"
#include "types.h"

/* <linux/if_arp.h> would pull in the C library. */
#define ARPHRD_ETHER 1
#define ARPOP_REQUEST 1
#define ARPOP_REPLY 2

struct arp_ipv4 {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[6];
	__be32 sender;
	__u8 target_mac[6];
	__be32 target;
} __attribute__((packed));

_Static_assert(sizeof(struct arp_ipv4) == 28, "RFC 826, Ethernet and IPv4");

/* Whether this hook answers a request for addr that came from a station with MAC asker; the answer's MAC goes to mac.
 *
 * From the wire: only for a VIP that this node owns. From local pods and from the node itself: for every VIP, whoever owns
 * it, because this node balances what they send; and among themselves where the kernel keeps them apart and neither would
 * ever hear the other's request: any macvlan and the host, and pods that are not in bridge mode. */
static __always_inline int answers_for(struct __sk_buff *skb, __be32 addr, enum direction dir, __u64 asker, __u8 *mac)
{
	struct address_key key = {.ifindex = skb->ifindex};
	struct address_info *info;

	map_ipv4(&key.addr, addr);
	info = bpf_map_lookup_elem(&addresses, &key);
	if (!info)
		return 0;
	__builtin_memcpy(mac, info->mac, ETH_ALEN);
	if (dir == DIRECTION_INGRESS)
		return info->kind == ADDRESS_VIP && bpf_map_lookup_elem(&owners, &key) != NULL;
	/* Who has the address asks whether anyone else does (RFC 5227 section 2.1). */
	if (info->kind == ADDRESS_POD)
		return load_mac(info->mac) != asker && (is_master(asker) || info->flags & MASTER_APART);
	if (info->kind == ADDRESS_NODE)
		return !is_master(asker);
	return 1;
}

/* Turns a request that this node answers into the reply, in place, and sends it back to where it came from. Returns the
 * reason, and the action in *action. */
static __noinline enum reason arp(struct __sk_buff *skb, const struct packet *p, enum direction dir, int *action)
{
	struct arp_ipv4 *arp;
	struct ethhdr *eth;
	__u8 mac[ETH_ALEN];
	__be32 target;

	if (!linear(skb, sizeof(*eth) + sizeof(*arp)))
		return REASON_MALFORMED;
	eth = frame(skb);
	arp = (void *)(eth + 1);
	if ((void *)(arp + 1) > frame_end(skb))
		return REASON_MALFORMED;
	if (arp->hardware != bpf_htons(ARPHRD_ETHER) || arp->protocol != bpf_htons(ETH_P_IP) ||
	    arp->hardware_len != ETH_ALEN || arp->protocol_len != 4)
		return REASON_MISS;
	/* A gratuitous request is an announcement, ours among them (RFC 5227 section 3): nobody asks. */
	if (arp->operation != bpf_htons(ARPOP_REQUEST) || arp->sender == arp->target)
		return REASON_MISS;
	/* Unicast requests are neighbours' reachability probes; one to another station was flooded here. */
	if (dir == DIRECTION_INGRESS && !(p->dst_mac & 1) && !is_master(p->dst_mac))
		return REASON_MISS;
	target = arp->target;
	if (!answers_for(skb, target, dir, p->src_mac, mac))
		return REASON_MISS;

	__builtin_memcpy(eth->h_dest, arp->sender_mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
	arp->operation = bpf_htons(ARPOP_REPLY);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, ETH_ALEN);
	arp->target = arp->sender;
	__builtin_memcpy(arp->sender_mac, mac, ETH_ALEN);
	arp->sender = target;
	*action = bpf_redirect(skb->ifindex, dir == DIRECTION_INGRESS ? 0 : BPF_F_INGRESS);
	return REASON_ARP_REPLY;
}
