/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: what the pod's own TCP knows of a connection. It knows families, because the helpers do. */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "parse.h"
#include "types.h"

/* Whether a listener sent the SYN cookie that this packet acknowledges. The headers for that question are built as the pod will
 * see them. */
static __always_inline int has_cookie(struct bpf_sock *sk, const struct packet *p, const struct flow *f)
{
	struct tcphdr tcp = {.doff = 5, .source = f->sport, .dest = f->dport};

	tcp.seq = bpf_htonl(p->seq);
	tcp.ack_seq = bpf_htonl(p->ack);
	((__u8 *)&tcp)[13] = p->tcp_flags;
	if (p->ipv6) {
		struct ipv6hdr ip = {.version = 6, .nexthdr = IPPROTO_TCP};

		__builtin_memcpy(&ip.saddr, &f->src, sizeof(ip.saddr));
		__builtin_memcpy(&ip.daddr, &f->dst, sizeof(ip.daddr));
		return bpf_tcp_check_syncookie(sk, &ip, sizeof(ip), &tcp, sizeof(tcp)) == 0;
	} else {
		struct iphdr ip = {.ihl = 5, .version = 4, .protocol = IPPROTO_TCP};

		ip.saddr = f->src.word[3];
		ip.daddr = f->dst.word[3];
		return bpf_tcp_check_syncookie(sk, &ip, sizeof(ip), &tcp, sizeof(tcp)) == 0;
	}
}

/* Asks the pod's own TCP whether it knows the connection. A listener proves nothing, unless the packet is the ACK of a SYN
 * cookie that it sent. A SYN that the pod has answered (NEW_SYN_RECV) proves nothing either: anyone can send one from any
 * address. */
static __noinline int pod_knows(struct __sk_buff *skb, const struct packet *p, const struct flow *f, __s32 netns)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	int known;

	if (netns < 0)
		return 0;
	if (p->ipv6) {
		__builtin_memcpy(tuple.ipv6.saddr, &f->src, sizeof(tuple.ipv6.saddr));
		__builtin_memcpy(tuple.ipv6.daddr, &f->dst, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.sport = f->sport;
		tuple.ipv6.dport = f->dport;
		sk = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), (__u32)netns, 0);
	} else {
		tuple.ipv4.saddr = f->src.word[3];
		tuple.ipv4.daddr = f->dst.word[3];
		tuple.ipv4.sport = f->sport;
		tuple.ipv4.dport = f->dport;
		sk = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), (__u32)netns, 0);
	}
	if (!sk)
		return 0;
	known = sk->state != BPF_TCP_LISTEN && sk->state != BPF_TCP_NEW_SYN_RECV;
	if (sk->state == BPF_TCP_LISTEN)
		known = has_cookie(sk, p, f);
	bpf_sk_release(sk);
	return known;
}
