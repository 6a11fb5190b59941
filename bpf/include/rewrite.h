/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: every change to packet memory. Checksums stay right in each of the kernel's states (NONE, UNNECESSARY, PARTIAL,
 * COMPLETE): the IP header's change is neutral to skb->csum, ports and their checksum cancel out, and only the pseudo
 * header's change goes through the helper that knows the state (net/core/filter.c, bpf_l4_csum_replace). */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "parse.h"
#include "types.h"

/* Of packets that the programs make up; what Linux sends. */
#define HOP_LIMIT 64

/* RFC 1624 equation 3, for one 32-bit word. */
static __always_inline __sum16 checksum_replace(__sum16 sum, __be32 from, __be32 to)
{
	__u32 acc = (__u16)~sum;

	acc += (__u16)~from;
	acc += (__u16) ~(from >> 16);
	acc += (__u16)to;
	acc += (__u16)(to >> 16);
	acc = (acc & 0xffff) + (acc >> 16);
	acc = (acc & 0xffff) + (acc >> 16);
	return (__sum16)~acc;
}

/* The checksum over what sums up to sum. */
static __always_inline __sum16 fold(__u64 sum)
{
#pragma unroll
	for (int i = 0; i < 4; i++)
		sum = (sum & 0xffff) + (sum >> 16);
	return (__sum16)~sum;
}

/* The checksum after a change that bpf_csum_diff gave. */
static __always_inline __sum16 add_to_checksum(__sum16 check, __s64 diff)
{
	return fold((__u64)(__u32)diff + (__u16)~check);
}

/* Writes both MACs directly: they are outside of skb->csum, so the store helper's recompute flag would corrupt it. */
static __always_inline int rewrite_macs(struct __sk_buff *skb, __u64 dst, __u64 src)
{
	struct ethhdr *eth = frame(skb);

	if ((void *)(eth + 1) > frame_end(skb))
		return -1;
	store_mac(eth->h_dest, dst);
	store_mac(eth->h_source, src);
	return 0;
}

/* Gives the IP header two addresses: source and destination. */
static __always_inline int rewrite_addresses(struct __sk_buff *skb, const struct packet *p, const struct address *to)
{
	void *header = frame(skb) + sizeof(struct ethhdr);

	if (p->ipv6) {
		struct ipv6hdr *ip = header;

		if ((void *)(ip + 1) > frame_end(skb))
			return -1;
		__builtin_memcpy(&ip->saddr, &to[0], sizeof(ip->saddr));
		__builtin_memcpy(&ip->daddr, &to[1], sizeof(ip->daddr));
	} else {
		struct iphdr *ip = header;

		if ((void *)(ip + 1) > frame_end(skb))
			return -1;
		ip->check = checksum_replace(ip->check, ip->saddr, to[0].word[3]);
		ip->check = checksum_replace(ip->check, ip->daddr, to[1].word[3]);
		ip->saddr = to[0].word[3];
		ip->daddr = to[1].word[3];
	}
	return 0;
}

/* What a host of its own would send: as the packet did not travel on. */
static __always_inline int rewrite_hop_limit(struct __sk_buff *skb, const struct packet *p)
{
	void *header = frame(skb) + sizeof(struct ethhdr);

	if (p->ipv6) {
		struct ipv6hdr *ip = header;
		__be32 from[1], to[1];

		if ((void *)(ip + 1) > frame_end(skb))
			return -1;
		__builtin_memcpy(from, (void *)ip + offsetof(struct ipv6hdr, payload_len), sizeof(from));
		ip->hop_limit = HOP_LIMIT;
		__builtin_memcpy(to, (void *)ip + offsetof(struct ipv6hdr, payload_len), sizeof(to));
		bpf_csum_update(skb, bpf_csum_diff(from, sizeof(from), to, sizeof(to), 0));
	} else {
		struct iphdr *ip = header;

		if ((void *)(ip + 1) > frame_end(skb))
			return -1;
		ip->check = checksum_replace(ip->check, ip->ttl, HOP_LIMIT);
		ip->ttl = HOP_LIMIT;
	}
	return 0;
}

/* The flag with which bpf_l4_csum_replace takes a change of addresses. In IPv4 the header's own checksum makes up for them in
 * a COMPLETE skb->csum, so that the transport checksum's change is one of the whole packet; in IPv6 nothing does, and the two
 * cancel out. Only the kernel knows the state, and says so where it lets us add nothing. (BPF_F_IPV6 does the same, but only
 * newer kernels know it.) */
static __always_inline __u64 pseudo_header(struct __sk_buff *skb, const struct packet *p)
{
	return p->ipv6 && (__s64)bpf_csum_update(skb, 0) >= 0 ? 0 : BPF_F_PSEUDO_HDR;
}

/* Gives the packet the tuple of f. Anything but 0 means that the packet may be half written: drop it. */
static __noinline int rewrite_tuple(struct __sk_buff *skb, const struct packet *p, const struct flow *f)
{
	__be32 old_ports = (__u32)p->key.sport | (__u32)p->key.dport << 16;
	__be32 new_ports = (__u32)f->sport | (__u32)f->dport << 16;
	__u64 mangled = 0;
	__be16 *ports;
	__u32 check;
	__s64 diff;

	_Static_assert(offsetof(struct flow_key, dst) == sizeof(struct address) && offsetof(struct flow, src) == 0 &&
			       offsetof(struct flow, dst) == sizeof(struct address),
		       "both addresses lie together, so that one call takes their difference");
	if (rewrite_addresses(skb, p, (const void *)f))
		return -1;
	/* Mapped IPv4 addresses differ in their last words only: the rest cancels out. */
	diff = bpf_csum_diff((void *)&p->key.src, 2 * sizeof(struct address), (void *)&f->src,
			     2 * sizeof(struct address), 0);
	if (diff < 0)
		return -1;

	ports = frame(skb) + l4_offset(p);
	if ((void *)(ports + sizeof(struct udphdr) / sizeof(*ports)) > frame_end(skb))
		return -1;
	ports[0] = f->sport;
	ports[1] = f->dport;

	check = l4_offset(p);
	if (p->key.proto == IPPROTO_TCP) {
		check += offsetof(struct tcphdr, check);
	} else if (ports[offsetof(struct udphdr, check) / sizeof(*ports)]) {
		check += offsetof(struct udphdr, check);
		mangled = BPF_F_MARK_MANGLED_0; /* what comes out as zero is sent as 0xffff (RFC 768) */
	} else {
		/* Zero means none, and stays (in IPv6 only tunnels send it, RFC 6935). So nothing in the packet makes up
		 * for the ports, or IPv6's addresses, in a COMPLETE skb->csum; in the other states the helper refuses,
		 * and there is nothing to do. */
		bpf_csum_update(skb, bpf_csum_diff(&old_ports, 4, &new_ports, 4, p->ipv6 ? diff : 0));
		return 0;
	}
	if (bpf_l4_csum_replace(skb, check, 0, diff, pseudo_header(skb, p) | mangled))
		return -1;
	if (old_ports != new_ports && bpf_l4_csum_replace(skb, check, old_ports, new_ports, 4 | mangled))
		return -1;
	return 0;
}
