/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: ICMP (RFC 792) and ICMPv6 (RFC 4443) besides ND: errors about flows of ours, and echo. */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "balance.h"
#include "extensions.h"
#include "flows.h"
#include "limit.h"
#include "maps.h"
#include "neighbour.h"
#include "parse.h"
#include "rewrite.h"
#include "types.h"

#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_ECHO_REQUEST 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMPV6_UNREACHABLE 1
#define ICMPV6_PARAMETER_PROBLEM 4
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129

/* Both versions begin alike; what is quoted begins behind. */
struct icmp_header {
	__u8 type;
	__u8 code;
	__sum16 check;
	__be32 rest;
};

static __always_inline int is_icmp(const struct packet *p)
{
	return p->key.proto == (p->ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP) && p->fragment == WHOLE;
}

/* Whether the message tells of what became of a packet. Redirects do not: they are for the next hop's neighbour alone. */
static __always_inline int is_icmp_error(const struct packet *p, __u8 type)
{
	if (p->ipv6)
		return type >= ICMPV6_UNREACHABLE && type <= ICMPV6_PARAMETER_PROBLEM;
	return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM;
}

/* Reads the packet that the error p quotes, as far as its ports. The key is turned round: that of the packets which the one
 * quoted answers, and under which its flow is known. Returns false if there is nothing of use in it. */
static __noinline int parse_quoted(struct __sk_buff *skb, const struct packet *p, struct packet *q)
{
	__u32 offset = p->l4 + sizeof(struct icmp_header);
	__be16 ports[2];

	q->key.ifindex = p->key.ifindex;
	q->ipv6 = p->ipv6;
	q->fragment = WHOLE;
	if (p->ipv6) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 6)
			return 0;
		__builtin_memcpy(&q->key.src, &ip.daddr, sizeof(q->key.src));
		__builtin_memcpy(&q->key.dst, &ip.saddr, sizeof(q->key.dst));
		q->key.proto = ip.nexthdr;
		q->l4 = offset + sizeof(ip);
		if (is_mapped(&q->key.src) || !find_transport(skb, q))
			return 0;
	} else {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
			return 0;
		map_ipv4(&q->key.src, ip.daddr);
		map_ipv4(&q->key.dst, ip.saddr);
		q->key.proto = ip.protocol;
		q->l4 = offset + ip.ihl * 4;
		if (ip.frag_off & IPV4_FRAGMENT_OFFSET)
			q->fragment = FRAGMENT_LATER;
	}
	if (!has_ports(q) || bpf_skb_load_bytes(skb, q->l4, ports, sizeof(ports)))
		return 0;
	q->key.sport = ports[1];
	q->key.dport = ports[0];
	return 1;
}

/* What a change of the quoted packet adds to the sum of all that is quoted. */
static __always_inline __s64 add_change(__u16 from, __u16 to, __s64 sum)
{
	__u32 old = from, new = to;

	return bpf_csum_diff(&old, sizeof(old), &new, sizeof(new), sum);
}

/* Gives the quoted packet the tuple that its sender knows it by: the mirror of f. sum takes up what that changes. Anything but
 * 0: half written, drop it. */
static __noinline int rewrite_quoted(struct __sk_buff *skb, const struct packet *p, const struct packet *q,
				     const struct flow *f, __s64 *sum)
{
	__u32 header = p->l4 + sizeof(struct icmp_header);
	__u32 check =
		q->l4 + (q->key.proto == IPPROTO_TCP ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
	struct address now[2];
	__be16 ports[2];
	__sum16 old, new;
	__s64 diff;

	now[0] = f->dst;
	now[1] = f->src;
	ports[0] = f->dport;
	ports[1] = f->sport;
	diff = bpf_csum_diff((void *)&q->key.src, sizeof(now), (void *)now, sizeof(now), 0);
	if (p->ipv6) {
		*sum = diff;
		if (bpf_skb_store_bytes(skb, header + offsetof(struct ipv6hdr, saddr), now, sizeof(now), 0))
			return -1;
	} else {
		__be32 short_form[2] = {now[0].word[3], now[1].word[3]};

		/* The quoted header's checksum makes up for its addresses. */
		*sum = 0;
		if (bpf_skb_load_bytes(skb, header + offsetof(struct iphdr, check), &old, sizeof(old)))
			return -1;
		new = checksum_replace(old, q->key.dst.word[3], short_form[0]);
		new = checksum_replace(new, q->key.src.word[3], short_form[1]);
		if (bpf_skb_store_bytes(skb, header + offsetof(struct iphdr, check), &new, sizeof(new), 0) ||
		    bpf_skb_store_bytes(skb, header + offsetof(struct iphdr, saddr), short_form, sizeof(short_form), 0))
			return -1;
	}
	diff = bpf_csum_diff((void *)&q->key.sport, sizeof(ports), (void *)ports, sizeof(ports), diff);
	*sum = bpf_csum_diff((void *)&q->key.sport, sizeof(ports), (void *)ports, sizeof(ports), *sum);
	if (bpf_skb_store_bytes(skb, q->l4, ports, sizeof(ports), 0))
		return -1;
	/* Often cut off: eight octets behind the header are all that is sure to be quoted. */
	if (bpf_skb_load_bytes(skb, check, &old, sizeof(old)) || (!old && q->key.proto == IPPROTO_UDP))
		return 0;
	new = add_to_checksum(old, diff);
	if (!new && q->key.proto == IPPROTO_UDP)
		new = 0xffff;
	*sum = add_change(old, new, *sum);
	return bpf_skb_store_bytes(skb, check, &new, sizeof(new), 0);
}

/* Translates an error about the flow f: outside as f says, inside the other way round. A router's own address stays. */
static __noinline int rewrite_error(struct __sk_buff *skb, const struct packet *p, const struct packet *q,
				    const struct flow *f)
{
	__u32 check = p->l4 + offsetof(struct icmp_header, check);
	struct address outer[2] = {p->key.src, f->dst};
	__s64 inner_sum, outer_sum;

	if (same_address(&p->key.src, &q->key.src))
		outer[0] = f->src;
	if (rewrite_quoted(skb, p, q, f, &inner_sum) || rewrite_addresses(skb, p, outer) ||
	    bpf_l4_csum_replace(skb, check, 0, inner_sum, 0))
		return -1;
	if (!p->ipv6) /* no pseudo header (RFC 792) */
		return 0;
	outer_sum = bpf_csum_diff((void *)&p->key.src, 2 * sizeof(struct address), (void *)outer, sizeof(outer), 0);
	return bpf_l4_csum_replace(skb, check, 0, outer_sum, pseudo_header(skb, p));
}

/* Answers an echo request in place. A node does so for the VIPs that it owns, and for its own pods, whom it alone hears. */
static __noinline enum reason echo(struct __sk_buff *skb, const struct packet *p, enum direction dir, int *action)
{
	__u16 request = p->ipv6 ? ICMPV6_ECHO_REQUEST : ICMP_ECHO_REQUEST; /* and code 0, as they lie in memory */
	__u16 reply = p->ipv6 ? ICMPV6_ECHO_REPLY : ICMP_ECHO_REPLY;
	struct address_key vip = {.addr = p->key.dst, .ifindex = p->key.ifindex};
	struct address swapped[2] = {p->key.dst, p->key.src};

	if (!is_from_here(p, dir) && !bpf_map_lookup_elem(&owners, &vip))
		return REASON_NOT_OWNER;
	if (!is_unicast(p))
		return REASON_UNSUPPORTED_PROTOCOL;
	if (!may_answer(ANSWER_ECHO))
		return REASON_ANSWER_LIMIT;
	/* Swapped addresses leave every sum as it is. */
	if (rewrite_macs(skb, p->src_mac, load_mac(master_mac)) || rewrite_addresses(skb, p, swapped) ||
	    rewrite_hop_limit(skb, p) || bpf_skb_store_bytes(skb, p->l4, &reply, sizeof(reply), 0) ||
	    bpf_l4_csum_replace(skb, p->l4 + offsetof(struct icmp_header, check), request, reply, sizeof(reply)))
		return REASON_REWRITE;
	*action = send_answer(skb, p, dir);
	return REASON_ECHO_REPLY;
}

/* Sends an error about a flow that ends on another node to that node, which knows its pod. 0: there is none. */
static __noinline enum reason forward_error(struct __sk_buff *skb, const struct flow_key *key, enum direction dir,
					    int *action)
{
	struct selection *choice = bpf_map_lookup_elem(&selections, key);
	struct service *svc;
	struct backend *b;
	__u32 id = 0;

	if (choice) {
		id = choice->backend;
	} else {
		svc = find_service(key);
		if (svc)
			id = table_backend(svc, key);
	}
	b = bpf_map_lookup_elem(&backends, &id);
	return b && !(b->flags & BACKEND_LOCAL) ? forward(skb, id, b, dir, 0, action) : 0;
}

/* An error about a packet of ours: one that the VIP sent, or one that a pod was sent. role: towards the VIP that it is for, if it
 * is for one. 0: it is about none. */
static __noinline enum reason icmp_error(struct __sk_buff *skb, const struct packet *p, enum direction dir,
					 enum role role, int *action)
{
	struct packet q = {};
	struct flow *f;

	/* An error goes to the sender of what it quotes. */
	if (!parse_quoted(skb, p, &q) || !same_address(&p->key.dst, &q.key.dst))
		return 0;
	f = find_flow(&q.key).flow;
	if (!f)
		return role == ROLE_OWNER ? forward_error(skb, &q.key, dir, action) : 0;
	/* Any router may tell a pod what became of its VIP's packets; about what a pod was sent, only that pod speaks. */
	if (f->flags & FLOW_REPLY ? !same_address(&p->key.src, &q.key.src) : role == ROLE_NONE)
		return 0;
	if (rewrite_error(skb, p, &q, f))
		return REASON_REWRITE;
	if (f->flags & FLOW_REPLY && !(f->flags & FLOW_HAIRPIN))
		steer_to_client(skb, p, dir, action);
	else if (steer_to_pod(skb, p, f, dir, action))
		return REASON_REWRITE;
	return REASON_ICMP_ERROR;
}

/* An ICMP message to a VIP. */
static __always_inline enum reason icmp_to_vip(struct __sk_buff *skb, const struct packet *p, enum direction dir,
					       enum role role, int *action)
{
	enum reason reason;
	struct icmp_header head;

	if (bpf_skb_load_bytes(skb, p->l4, &head, sizeof(head)))
		return REASON_MALFORMED;
	if (is_icmp_error(p, head.type)) {
		reason = icmp_error(skb, p, dir, role, action);
		return reason ? reason : REASON_ICMP_UNRELATED;
	}
	if (head.type == (p->ipv6 ? ICMPV6_ECHO_REQUEST : ICMP_ECHO_REQUEST) && !head.code && role == ROLE_OWNER)
		return echo(skb, p, dir, action);
	return REASON_UNSUPPORTED_PROTOCOL;
}

/* An ICMP message from a local pod to anything but a VIP. */
static __always_inline enum reason icmp_from_pod(struct __sk_buff *skb, const struct packet *p, enum direction dir,
						 int *action)
{
	struct icmp_header head;

	if (bpf_skb_load_bytes(skb, p->l4, &head, sizeof(head)))
		return REASON_MALFORMED;
	if (!is_icmp_error(p, head.type))
		return REASON_MISS;
	/* To a sibling, like the reply whose place it takes; see from_pod. */
	if (dir == DIRECTION_INGRESS && !is_local_mac(skb->ifindex, p->dst_mac))
		return REASON_MISS;
	return icmp_error(skb, p, dir, ROLE_NONE, action);
}
