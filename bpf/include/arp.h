/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: the ARP responder (RFC 826, RFC 5227). */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "neighbour.h"
#include "node.h"
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

/* Turns a request that this node answers into the reply, in place, and sends it back to where it came from. Returns the
 * reason, and the action in *action. */
static __noinline enum reason arp(struct __sk_buff *skb, struct packet *p, enum direction dir, int *action)
{
	struct address_key key = {.ifindex = skb->ifindex};
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
	if (dir == DIRECTION_INGRESS && arp->operation == bpf_htons(ARPOP_REPLY)) {
		p->key.ifindex = skb->ifindex;
		map_ipv4(&p->key.src, arp->sender);
		map_ipv4(&p->key.dst, arp->target);
		return to_node(skb, p, destination(p));
	}
	/* A gratuitous request is an announcement, ours among them (RFC 5227 section 3): nobody asks. */
	if (arp->operation != bpf_htons(ARPOP_REQUEST) || arp->sender == arp->target)
		return REASON_MISS;
	/* Unicast requests are neighbours' reachability probes; one to another station was flooded here. */
	if (dir == DIRECTION_INGRESS && !(p->dst_mac & 1) && !is_master(p->dst_mac))
		return REASON_MISS;
	target = arp->target;
	map_ipv4(&key.addr, target);
	if (!answers_for(&key, p, dir, mac))
		return REASON_MISS;

	__builtin_memcpy(eth->h_dest, arp->sender_mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
	arp->operation = bpf_htons(ARPOP_REPLY);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, ETH_ALEN);
	arp->target = arp->sender;
	__builtin_memcpy(arp->sender_mac, mac, ETH_ALEN);
	arp->sender = target;
	*action = send_answer(skb, p, dir);
	return REASON_ARP_REPLY;
}
