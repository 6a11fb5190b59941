/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: from bytes to struct packet. The only place besides rewrite.h that touches packet memory, and the only one that
 * knows address families. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <linux/in.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "types.h"

#define IPV4_MAPPED bpf_htonl(0x0000ffff)
#define IPV4_MORE_FRAGMENTS bpf_htons(0x2000)
#define IPV4_FRAGMENT_OFFSET bpf_htons(0x1fff)

/* How far the programs look for layer 4: octets from the start of the frame. */
#define L4_OFFSET_MASK 0x1ff

#define TCP_FLAG_FIN_BIT 0x01
#define TCP_FLAG_SYN_BIT 0x02
#define TCP_FLAG_RST_BIT 0x04
#define TCP_FLAG_ACK_BIT 0x10

/* What the programs know of a packet. Addresses and ports are as they stand in it. */
struct packet {
	struct flow_key key; /* protocol: the first header's after IP's, until find_transport; ports: see parse_ports */
	__u64 dst_mac;	     /* as load_mac gives it */
	__u64 src_mac;
	__u16 l4;  /* octets from the start of the frame to layer 4; IPv6: until find_transport, to the next header */
	__u8 ipv6; /* or IPv4 */
	__u8 fragment;	/* enum fragment; IPv6: see find_transport */
	__u8 master;	/* enum master_flag; of packets to a VIP, and from a local pod */
	__u8 tcp_flags; /* this and the rest: see parse_ports */
	__u32 seq;	/* TCP; host order */
	__u32 ack;	/* TCP; host order */
};

enum fragment {
	WHOLE = 0,
	FRAGMENT_FIRST,
	FRAGMENT_LATER, /* has no transport header */
};

enum parsed {
	PARSED_FOREIGN, /* neither ARP nor IP, or nobody's; only the MACs are filled in */
	PARSED_ARP,	/* only the MACs are filled in */
	PARSED_TAGGED,	/* a VLAN tag stands in the frame */
	PARSED_IP,
	PARSED_MALFORMED,
};

/* Written in halves of 64 bits where the compiler may, because that is how look-ups and copies read it: a load that spans two
 * recent stores waits for both to leave the store buffer. */
static __always_inline void map_ipv4(struct address *out, __be32 addr)
{
	__u64 high = 0, low = (__u64)addr << 32 | IPV4_MAPPED;

	__builtin_memcpy(&out->word[0], &high, sizeof(high));
	__builtin_memcpy(&out->word[2], &low, sizeof(low));
}

/* Whether an address, or one out of an IPv6 packet, is IPv4's. */
static __always_inline int is_mapped(const struct address *a)
{
	return a->word[2] == IPV4_MAPPED && !(a->word[0] | a->word[1]);
}

static __always_inline int same_address(const struct address *a, const struct address *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] &&
	       a->word[0] == b->word[0];
}

/* A MAC in a register: its six bytes as they lie in memory, from an even address. */
static __always_inline __u64 load_mac(const volatile void *at)
{
	const volatile __u16 *part = at;

	return part[0] | (__u64)part[1] << 16 | (__u64)part[2] << 32;
}

static __always_inline void store_mac(void *at, __u64 mac)
{
	__u16 *part = at;

	part[0] = mac;
	part[1] = mac >> 16;
	part[2] = mac >> 32;
}

static __always_inline int is_master(__u64 mac)
{
	return mac == load_mac(master_mac);
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

static __always_inline int is_vlan(__be16 ether_type)
{
	return ether_type == bpf_htons(ETH_P_8021Q) || ether_type == bpf_htons(ETH_P_8021AD);
}

static __always_inline enum parsed parse_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr *ip = frame(skb) + sizeof(struct ethhdr);
	__be16 fragment;
	__u32 ihl, proto;

	if ((void *)(ip + 1) > frame_end(skb) || ip->version != 4)
		return PARSED_MALFORMED;
	ihl = ip->ihl * 4;
	if (ihl < sizeof(*ip))
		return PARSED_MALFORMED;
	__builtin_memset(&p->key.sport, 0, 4); /* both ports */
	map_ipv4(&p->key.src, ip->saddr);
	map_ipv4(&p->key.dst, ip->daddr);
	p->key.ifindex = skb->ifindex;
	proto = ip->protocol;
	__builtin_memcpy(&p->key.proto, &proto, sizeof(proto)); /* with the padding: one store */
	p->l4 = sizeof(struct ethhdr) + ihl;
	p->ipv6 = 0;
	fragment = ip->frag_off & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET);
	p->fragment = WHOLE;
	if (fragment)
		p->fragment = fragment & IPV4_FRAGMENT_OFFSET ? FRAGMENT_LATER : FRAGMENT_FIRST;
	return PARSED_IP;
}

static __always_inline enum parsed parse_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr *ip;
	__u32 proto;

	if (!linear(skb, sizeof(struct ethhdr) + sizeof(*ip)))
		return PARSED_MALFORMED;
	ip = frame(skb) + sizeof(struct ethhdr);
	if ((void *)(ip + 1) > frame_end(skb) || ip->version != 6)
		return PARSED_MALFORMED;
	__builtin_memset(&p->key.sport, 0, 4); /* both ports */
	__builtin_memcpy(&p->key.src, &ip->saddr, sizeof(p->key.src));
	__builtin_memcpy(&p->key.dst, &ip->daddr, sizeof(p->key.dst));
	p->key.ifindex = skb->ifindex;
	proto = ip->nexthdr;
	__builtin_memcpy(&p->key.proto, &proto, sizeof(proto)); /* with the padding: one store */
	p->l4 = sizeof(struct ethhdr) + sizeof(*ip);
	p->ipv6 = 1;
	p->fragment = WHOLE;
	/* On a wire a mapped address is nobody's (RFC 6890 table 20), and in the maps it would be IPv4's. */
	return is_mapped(&p->key.src) || is_mapped(&p->key.dst) ? PARSED_FOREIGN : PARSED_IP;
}

static __always_inline enum parsed parse(struct __sk_buff *skb, struct packet *p)
{
	struct ethhdr *eth;

	/* Nearly every frame has both headers; some drivers leave only the first linear. */
	if (!linear(skb, sizeof(*eth) + sizeof(struct iphdr)) && !linear(skb, sizeof(*eth)))
		return PARSED_MALFORMED;
	eth = frame(skb);
	if ((void *)(eth + 1) > frame_end(skb))
		return PARSED_MALFORMED;
	p->dst_mac = load_mac(eth->h_dest);
	p->src_mac = load_mac(eth->h_source);
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return parse_ipv4(skb, p);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(skb, p);
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return PARSED_ARP;
	return is_vlan(eth->h_proto) ? PARSED_TAGGED : PARSED_FOREIGN;
}

/* From the start of the frame to layer 4.
 * verifier: it forgets the bounds of what has been in memory, and must see them on the register that it adds. */
static __always_inline __u32 l4_offset(const struct packet *p)
{
	return p->l4 & L4_OFFSET_MASK;
}

/* Whether the frame has ports to parse. */
static __always_inline int has_ports(const struct packet *p)
{
	return (p->key.proto == IPPROTO_TCP || p->key.proto == IPPROTO_UDP) && p->fragment != FRAGMENT_LATER;
}

/* Reads the ports, and TCP's flags and numbers, of a frame that has_ports. Returns false if they are cut off. */
static __always_inline int parse_ports(struct __sk_buff *skb, struct packet *p)
{
	void *data, *data_end;
	struct tcphdr *tcp;
	struct udphdr *udp;

	if (p->key.proto == IPPROTO_TCP) {
		if (!linear(skb, l4_offset(p) + sizeof(*tcp)))
			return 0;
		data = frame(skb);
		data_end = frame_end(skb);
		tcp = data + l4_offset(p);
		if ((void *)(tcp + 1) > data_end)
			return 0;
		__builtin_memcpy(&p->key.sport, tcp, 4); /* both ports: one store */
		p->tcp_flags = ((__u8 *)tcp)[13];
		p->seq = bpf_ntohl(tcp->seq);
		p->ack = bpf_ntohl(tcp->ack_seq);
		return 1;
	}
	if (!linear(skb, l4_offset(p) + sizeof(*udp)))
		return 0;
	data = frame(skb);
	data_end = frame_end(skb);
	udp = data + l4_offset(p);
	if ((void *)(udp + 1) > data_end)
		return 0;
	p->key.sport = udp->source;
	p->key.dport = udp->dest;
	p->tcp_flags = 0;
	p->seq = 0;
	p->ack = 0;
	return 1;
}

/* Whether the sender can be told anything: both of its addresses are one station's, and the frame was for one station
 * (RFC 1122 section 3.2.2, RFC 4443 section 2.4). */
static __always_inline int is_unicast(const struct packet *p)
{
	__u32 first = bpf_ntohl(p->key.src.word[0]), last = bpf_ntohl(p->key.src.word[3]);

	if ((p->dst_mac | p->src_mac) & 1) /* the first bit on the wire is that of groups */
		return 0;
	if (p->ipv6) /* ::1 is no more than :: the address of anyone on a wire */
		return first >> 24 != 0xff && (first | p->key.src.word[1] | p->key.src.word[2] || last > 1);
	return last >> 24 != 0 && last >> 24 != 127 && last >> 24 < 224;
}
