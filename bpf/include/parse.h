/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: from bytes to struct packet. The only place besides rewrite.h that touches packet memory, and the only one that
 * knows address families. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <linux/in.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "types.h"

#define IPV4_MAPPED bpf_htonl(0x0000ffff)
#define IPV4_MORE_FRAGMENTS bpf_htons(0x2000)
#define IPV4_FRAGMENT_OFFSET bpf_htons(0x1fff)

#define TCP_FLAG_FIN_BIT 0x01
#define TCP_FLAG_SYN_BIT 0x02
#define TCP_FLAG_RST_BIT 0x04
#define TCP_FLAG_ACK_BIT 0x10

/* What the programs know of a packet. Addresses and ports are as they stand in it. */
struct packet {
	struct flow_key key;
	__u8 dst_mac[6];
	__u8 src_mac[6];
	__u16 l4_offset; /* from the start of the frame */
	__u8 tcp_flags;
	__u8 fragment; /* of any kind: the rest of the datagram is elsewhere */
	__u32 seq;     /* TCP; host order */
	__u32 ack;     /* TCP; host order */
};

enum parsed {
	PARSED_FOREIGN,	  /* neither ARP nor an IP version that is served */
	PARSED_ARP,	  /* only the MACs are filled in */
	PARSED_ADDRESSES, /* IP, but without ports: another protocol, or a later fragment */
	PARSED_PORTS,	  /* TCP or UDP with its ports */
	PARSED_MALFORMED,
};

static __always_inline void map_ipv4(struct address *out, __be32 addr)
{
	out->word[0] = 0;
	out->word[1] = 0;
	out->word[2] = IPV4_MAPPED;
	out->word[3] = addr;
}

static __always_inline int same_address(const struct address *a, const struct address *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] && a->word[0] == b->word[0];
}

static __always_inline int same_mac(const __u8 *a, const volatile __u8 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5];
}

/* verifier: clang keeps the 32-bit fields data and data_end in half registers and moves them so, which turns a packet
 * pointer into a number (all kernels, -mcpu=v3). Loading them by hand leaves it no choice. */
static __always_inline void *frame(const struct __sk_buff *skb)
{
	void *p;

	asm volatile("%[p] = *(u32 *)(%[skb] + %[off])"
		     : [p] "=r"(p)
		     : [skb] "r"(skb), [off] "i"(offsetof(struct __sk_buff, data)));
	return p;
}

static __always_inline void *frame_end(const struct __sk_buff *skb)
{
	void *p;

	asm volatile("%[p] = *(u32 *)(%[skb] + %[off])"
		     : [p] "=r"(p)
		     : [skb] "r"(skb), [off] "i"(offsetof(struct __sk_buff, data_end)));
	return p;
}

/* Makes len bytes readable and writable in place; false if the frame is shorter. Packet pointers are invalid afterwards. */
static __always_inline int linear(struct __sk_buff *skb, __u32 len)
{
	if (frame(skb) + len <= frame_end(skb))
		return 1;
	return skb->len >= len && bpf_skb_pull_data(skb, len) == 0;
}

static __always_inline enum parsed parse_l4(struct __sk_buff *skb, struct packet *p)
{
	void *data, *data_end;

	if (p->key.proto == IPPROTO_TCP) {
		struct tcphdr *tcp;

		if (!linear(skb, p->l4_offset + sizeof(*tcp)))
			return PARSED_MALFORMED;
		data = frame(skb);
		data_end = frame_end(skb);
		tcp = data + p->l4_offset;
		if ((void *)(tcp + 1) > data_end)
			return PARSED_MALFORMED;
		p->key.sport = tcp->source;
		p->key.dport = tcp->dest;
		p->tcp_flags = ((__u8 *)tcp)[13];
		p->seq = bpf_ntohl(tcp->seq);
		p->ack = bpf_ntohl(tcp->ack_seq);
		return PARSED_PORTS;
	}
	if (p->key.proto == IPPROTO_UDP) {
		struct udphdr *udp;

		if (!linear(skb, p->l4_offset + sizeof(*udp)))
			return PARSED_MALFORMED;
		data = frame(skb);
		data_end = frame_end(skb);
		udp = data + p->l4_offset;
		if ((void *)(udp + 1) > data_end)
			return PARSED_MALFORMED;
		p->key.sport = udp->source;
		p->key.dport = udp->dest;
		return PARSED_PORTS;
	}
	return PARSED_ADDRESSES;
}

static __always_inline enum parsed parse(struct __sk_buff *skb, struct packet *p)
{
	struct ethhdr *eth;
	struct iphdr *ip;
	void *data, *data_end;
	__u32 ihl;

	__builtin_memset(p, 0, sizeof(*p));
	p->key.ifindex = skb->ifindex;

	if (!linear(skb, sizeof(*eth)))
		return PARSED_FOREIGN;
	/* Asking for both headers at once saves a second pull where drivers leave only the Ethernet header linear. */
	if (skb->protocol == bpf_htons(ETH_P_IP) && !linear(skb, sizeof(*eth) + sizeof(*ip)))
		return PARSED_MALFORMED;
	data = frame(skb);
	data_end = frame_end(skb);
	eth = data;
	if ((void *)(eth + 1) > data_end)
		return PARSED_FOREIGN;
	__builtin_memcpy(p->dst_mac, eth->h_dest, sizeof(p->dst_mac));
	__builtin_memcpy(p->src_mac, eth->h_source, sizeof(p->src_mac));
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return PARSED_ARP;
	if (eth->h_proto != bpf_htons(ETH_P_IP))
		return PARSED_FOREIGN;

	ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > data_end || ip->version != 4)
		return PARSED_MALFORMED;
	ihl = ip->ihl * 4;
	if (ihl < sizeof(*ip))
		return PARSED_MALFORMED;
	map_ipv4(&p->key.src, ip->saddr);
	map_ipv4(&p->key.dst, ip->daddr);
	p->key.proto = ip->protocol;
	p->l4_offset = sizeof(*eth) + ihl;
	p->fragment = (ip->frag_off & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET)) != 0;
	if (ip->frag_off & IPV4_FRAGMENT_OFFSET)
		return PARSED_ADDRESSES;
	return parse_l4(skb, p);
}
