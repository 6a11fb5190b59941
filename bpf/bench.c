//go:build ignore

/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: the programs as benchmarks run them. A test run feeds a program its own output, so each of these saves the
 * headers, runs, and puts them back; the empty ones do the same with nothing in between. */
#define SLUICE_BENCH
#include "lb.c"

/* Ethernet, IPv6 and TCP headers up to the checksum, in whole words. */
#define WORDS 9

/* Number of the next flow; the programs that open flows write it into source address and port. */
__u32 next_flow;

/* The saved headers. Not on the stack, most of which the programs need; benchmarks run one after another. */
__u64 words[WORDS];

#define barrier() asm volatile("" ::: "memory")

static __always_inline int save(struct __sk_buff *skb)
{
	__u64 *data = frame(skb);

	if ((void *)(data + WORDS) > frame_end(skb))
		return -1;
#pragma unroll
	for (int i = 0; i < WORDS; i++)
		words[i] = data[i];
	return 0;
}

static __always_inline void restore(struct __sk_buff *skb)
{
	__u64 *data = frame(skb);

	barrier(); /* or clang sees that nothing has changed */
	if ((void *)(data + WORDS) > frame_end(skb))
		return;
#pragma unroll
	for (int i = 0; i < WORDS; i++)
		data[i] = words[i];
}

/* Makes the packet the first of a flow. Checksums are left wrong: the programs only ever adjust them. */
static __always_inline void renew(struct __sk_buff *skb)
{
	struct ethhdr *eth = frame(skb);
	struct iphdr *ip = (void *)(eth + 1);
	struct ipv6hdr *ip6 = (void *)(eth + 1);
	struct tcphdr *tcp = (void *)(ip + 1);
	__be32 *saddr = &ip->saddr;
	__u32 n = next_flow++;

	if ((void *)(ip6 + 1) + sizeof(*tcp) > frame_end(skb))
		return;
	if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		tcp = (void *)(ip6 + 1);
		saddr = &ip6->saddr.in6_u.u6_addr32[3];
	}
	*saddr = bpf_htonl(bpf_ntohl(*saddr) + (n >> 16));
	tcp->source = n;
}

SEC("tc")
int bench_empty(struct __sk_buff *skb)
{
	if (save(skb))
		return TC_ACT_SHOT;
	restore(skb);
	return TC_ACT_OK;
}

SEC("tc")
int bench_empty_renewed(struct __sk_buff *skb)
{
	if (save(skb))
		return TC_ACT_SHOT;
	renew(skb);
	restore(skb);
	return TC_ACT_OK;
}

static __always_inline int measure(struct __sk_buff *skb, enum direction dir, int renewed)
{
	int action;

	if (save(skb))
		return TC_ACT_SHOT;
	if (renewed)
		renew(skb);
	action = run(skb, dir);
	restore(skb);
	return action;
}

SEC("tc")
int bench_ingress(struct __sk_buff *skb)
{
	return measure(skb, DIRECTION_INGRESS, 0);
}

SEC("tc")
int bench_ingress_renewed(struct __sk_buff *skb)
{
	return measure(skb, DIRECTION_INGRESS, 1);
}

SEC("tc")
int bench_egress(struct __sk_buff *skb)
{
	return measure(skb, DIRECTION_EGRESS, 0);
}
