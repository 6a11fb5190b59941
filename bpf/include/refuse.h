/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: telling a client at once that nobody serves it: a TCP reset (RFC 9293 section 3.5.2), a port unreachable (RFC 792,
 * RFC 4443 section 3.1). The answer is written over the packet, and goes back to where that came from. */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "limit.h"
#include "maps.h"
#include "neighbour.h"
#include "parse.h"
#include "rewrite.h"
#include "types.h"

#define ICMP_PORT_UNREACHABLE bpf_htons(0x0303)
#define ICMPV6_PORT_UNREACHABLE bpf_htons(0x0104)
#define IPV4_DONT_FRAGMENT bpf_htons(0x4000)

/* The sum over the pseudo header of what this node answers: the addresses' order does not matter. */
static __always_inline __s64 pseudo_sum(const struct packet *p, __u32 len, __u8 proto)
{
	__be32 rest[2] = {bpf_htonl(len), bpf_htonl(proto)};

	/* The prefix of a mapped address is all ones, and adds nothing in this arithmetic. */
	return bpf_csum_diff(NULL, 0, (void *)&p->key.src, 2 * sizeof(struct address),
			     bpf_csum_diff(NULL, 0, rest, sizeof(rest), 0));
}

/* Makes the frame as long as an answer with len octets behind the IP header, and gives it that header. Anything but 0: half
 * written, drop it. */
static __always_inline int begin_answer(struct __sk_buff *skb, const struct packet *p, __u32 len, __u8 proto)
{
	__u32 header = p->ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);

	/* Twice, so that the length changes for certain: then the kernel forgets a COMPLETE skb->csum, which is the old packet's. */
	if (bpf_skb_change_tail(skb, sizeof(struct ethhdr) + header + len + 1, 0) ||
	    bpf_skb_change_tail(skb, sizeof(struct ethhdr) + header + len, 0) ||
	    rewrite_macs(skb, p->src_mac, load_mac(master_mac)))
		return -1;
	if (p->ipv6) {
		struct ipv6hdr ip = {
			.version = 6, .payload_len = bpf_htons(len), .nexthdr = proto, .hop_limit = HOP_LIMIT};

		__builtin_memcpy(&ip.saddr, &p->key.dst, sizeof(ip.saddr));
		__builtin_memcpy(&ip.daddr, &p->key.src, sizeof(ip.daddr));
		return bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &ip, sizeof(ip), 0);
	} else {
		struct iphdr ip = {.ihl = 5,
				   .version = 4,
				   .tot_len = bpf_htons(header + len),
				   .frag_off = IPV4_DONT_FRAGMENT,
				   .ttl = HOP_LIMIT,
				   .protocol = proto,
				   .saddr = p->key.dst.word[3],
				   .daddr = p->key.src.word[3]};

		ip.check = fold(bpf_csum_diff(NULL, 0, (void *)&ip, sizeof(ip), 0));
		return bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &ip, sizeof(ip), 0);
	}
}

/* What a segment takes of the sequence space (SEG.LEN of RFC 9293 section 3.3.1). The frame may be longer than the packet. */
static __always_inline __u32 segment_length(struct __sk_buff *skb, const struct packet *p)
{
	__u32 at = sizeof(struct ethhdr), begin = at + (p->ipv6 ? sizeof(struct ipv6hdr) : 0), flags;
	__u8 data_offset;
	__be16 len;
	__s32 data;

	at += p->ipv6 ? offsetof(struct ipv6hdr, payload_len) : offsetof(struct iphdr, tot_len);
	flags = !!(p->tcp_flags & TCP_FLAG_SYN_BIT) + !!(p->tcp_flags & TCP_FLAG_FIN_BIT);
	if (bpf_skb_load_bytes(skb, at, &len, sizeof(len)) ||
	    bpf_skb_load_bytes(skb, p->l4 + 12, &data_offset, sizeof(data_offset)))
		return flags;
	data = begin + bpf_ntohs(len) - p->l4 - (data_offset >> 4) * 4;
	return flags + (data > 0 ? data : 0);
}

/* Answers a TCP segment with a reset. */
static __noinline enum reason reset(struct __sk_buff *skb, const struct packet *p, enum direction dir, int *action)
{
	struct tcphdr tcp = {.source = p->key.dport, .dest = p->key.sport, .doff = 5, .rst = 1};
	__u32 l4 = sizeof(struct ethhdr) + (p->ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	__u32 check = l4 + offsetof(struct tcphdr, check);
	__s64 sum;

	if (p->tcp_flags & TCP_FLAG_RST_BIT || !is_unicast(p))
		return REASON_NO_BACKEND;
	if (!may_answer(ANSWER_RESET))
		return REASON_ANSWER_LIMIT;
	if (p->tcp_flags & TCP_FLAG_ACK_BIT) {
		tcp.seq = bpf_htonl(p->ack);
	} else {
		tcp.ack = 1;
		tcp.ack_seq = bpf_htonl(p->seq + segment_length(skb, p));
	}
	sum = bpf_csum_diff(NULL, 0, (void *)&tcp, sizeof(tcp), 0);
	/* The checksum by the helper, because a packet in state PARTIAL wants the pseudo header's sum only. */
	if (sum < 0 || begin_answer(skb, p, sizeof(tcp), IPPROTO_TCP) ||
	    bpf_skb_store_bytes(skb, l4, &tcp, sizeof(tcp), 0) ||
	    bpf_l4_csum_replace(skb, check, 0, pseudo_sum(p, sizeof(tcp), IPPROTO_TCP), BPF_F_PSEUDO_HDR) ||
	    bpf_l4_csum_replace(skb, check, 0, sum, 0))
		return REASON_REWRITE;
	*action = send_answer(skb, p, dir);
	return REASON_REFUSED;
}

#define PART (sizeof(struct icmp_answer) / 5)

_Static_assert(
	PART * 5 == sizeof(struct icmp_answer) && PART % 8 == 0 && PART <= 512,
	"the helper takes words, and no more than the programs' stack holds; compilers set as much to zero in place");

static __always_inline void wipe(struct icmp_answer *answer)
{
#pragma unroll
	for (int i = 0; i < 5; i++) {
		__builtin_memset((void *)answer + i * PART, 0, PART);
		barrier(); /* or the compiler makes one of them, and a call of it */
	}
}

/* The sum over all of it, on top of another: what is not quoted is zero, and adds nothing. */
static __always_inline __s64 sum_answer(struct icmp_answer *answer, __s64 sum)
{
#pragma unroll
	for (int i = 0; i < 5; i++)
		sum = bpf_csum_diff(NULL, 0, (void *)answer + i * PART, PART, sum);
	return sum;
}

/* Answers a datagram with a port unreachable that quotes its beginning. */
static __noinline enum reason unreachable(struct __sk_buff *skb, const struct packet *p, enum direction dir,
					  int *action)
{
	__u32 l4 = sizeof(struct ethhdr) + (p->ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	__u32 zero = 0, quoted = skb->len - sizeof(struct ethhdr);
	struct icmp_answer *answer;
	__s64 sum = 0;

	if (!is_unicast(p))
		return REASON_NO_BACKEND;
	if (!may_answer(ANSWER_UNREACHABLE))
		return REASON_ANSWER_LIMIT;
	answer = bpf_map_lookup_elem(&scratch, &zero);
	if (!answer)
		return REASON_NO_BACKEND;
	if (quoted > (p->ipv6 ? ICMPV6_QUOTE_MAX : ICMP_QUOTE_MAX))
		quoted = p->ipv6 ? ICMPV6_QUOTE_MAX : ICMP_QUOTE_MAX;
	/* verifier: it must see the bounds on the very register that the helper gets. */
	asm volatile("" : "+r"(quoted));
	if (quoted < sizeof(struct iphdr) || quoted > sizeof(answer->quoted))
		return REASON_NO_BACKEND;
	wipe(answer);
	answer->type_code = p->ipv6 ? ICMPV6_PORT_UNREACHABLE : ICMP_PORT_UNREACHABLE;
	if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr), answer->quoted, quoted))
		return REASON_REWRITE;
	if (p->ipv6)
		sum = pseudo_sum(p, ICMP_HEADER_LEN + quoted, IPPROTO_ICMPV6);
	answer->check = fold(sum_answer(answer, sum));
	if (begin_answer(skb, p, ICMP_HEADER_LEN + quoted, p->ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP) ||
	    bpf_skb_store_bytes(skb, l4, answer, ICMP_HEADER_LEN + quoted, 0))
		return REASON_REWRITE;
	*action = send_answer(skb, p, dir);
	return REASON_REFUSED;
}

/* Nobody serves the client: says so, unless the operator wants silence. */
static __always_inline enum reason refuse(struct __sk_buff *skb, const struct packet *p, enum direction dir,
					  int *action)
{
	if (no_backend_drop)
		return REASON_NO_BACKEND;
	return p->key.proto == IPPROTO_TCP ? reset(skb, p, dir, action) : unreachable(skb, p, dir, action);
}
