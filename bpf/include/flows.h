/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: the memory of connections on the backend's node: find, remember, confirm, close. */
#pragma once

#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "maps.h"
#include "parse.h"
#include "types.h"

/* Coarse time is enough, and a third of the price of the exact clock. The shift replaces a division; Go undoes it. */
static __always_inline __u32 now(void)
{
	return bpf_ktime_get_coarse_ns() >> 30;
}

/* Units of now(). A half-open flow older than this is forgotten when a new SYN comes; Linux retries a SYN for 63 s. */
#define HALF_OPEN_AGE 60
/* A UDP flow idle for longer starts anew, as conntrack's stream timeout has it. */
#define DATAGRAM_AGE 180

struct found {
	struct flow *flow;
	__u8 confirmed; /* it lives in flows */
};

static __always_inline struct found find_flow(const struct flow_key *key)
{
	struct found f = {};

	if (key->proto == IPPROTO_UDP) {
		f.flow = bpf_map_lookup_elem(&datagrams, key);
		return f;
	}
	f.flow = bpf_map_lookup_elem(&flows, key);
	if (f.flow) {
		f.confirmed = 1;
		return f;
	}
	f.flow = bpf_map_lookup_elem(&half_open, key);
	return f;
}

/* The key under which the other direction of f is found. */
static __always_inline void mirror_key(struct flow_key *out, const struct flow *f, const struct flow_key *key)
{
	__builtin_memset(out, 0, sizeof(*out));
	out->src = f->dst;
	out->dst = f->src;
	out->sport = f->dport;
	out->dport = f->sport;
	out->ifindex = key->ifindex;
	out->proto = key->proto;
}

static __always_inline int is_closed(const struct flow *f)
{
	return f->flags & FLOW_RESET || (f->flags & (FLOW_FIN | FLOW_PEER_FIN)) == (FLOW_FIN | FLOW_PEER_FIN);
}

/* Whether f has seen no packet for longer than age. Signed: another CPU may have noted a later time than ours. */
static __always_inline int is_idle(const struct flow *f, __u32 time, __s32 age)
{
	return (__s32)(time - f->seen) > age;
}

/* Whether a SYN on this tuple begins a new connection rather than repeating the one that f knows. */
static __always_inline int is_over(const struct found *f, __u32 time)
{
	return is_closed(f->flow) || (!f->confirmed && is_idle(f->flow, time, HALF_OPEN_AGE));
}

static __noinline void forget(const struct flow_key *key, const struct flow *f)
{
	struct flow_key mirror;

	mirror_key(&mirror, f, key);
	if (key->proto == IPPROTO_UDP) {
		bpf_map_delete_elem(&datagrams, &mirror);
		bpf_map_delete_elem(&datagrams, key);
		return;
	}
	bpf_map_delete_elem(&flows, &mirror);
	bpf_map_delete_elem(&half_open, &mirror);
	bpf_map_delete_elem(&flows, key);
	bpf_map_delete_elem(&half_open, key);
}

/* The value under key's mirror, for f under key: the same connection seen from the other end. */
static __always_inline void mirror_value(struct flow *out, const struct flow *f, const struct flow_key *key)
{
	__builtin_memset(out, 0, sizeof(*out));
	out->src = key->dst;
	out->dst = key->src;
	out->sport = key->dport;
	out->dport = key->sport;
	out->flags = (f->flags & (FLOW_HAIRPIN | FLOW_RESET)) | FLOW_REPLY;
	if (f->flags & FLOW_FIN)
		out->flags |= FLOW_PEER_FIN;
	if (f->flags & FLOW_PEER_FIN)
		out->flags |= FLOW_FIN;
	if (f->flags & FLOW_HAIRPIN)
		__builtin_memcpy(out->mac, f->mac, sizeof(out->mac));
	out->backend = f->backend;
	out->seen = f->seen;
}

/* Stores f and its mirror in map. mirror_flag: BPF_NOEXIST if another flow's replies may have that tuple, which another CPU
 * has then just taken. Returns 0, or the reason to drop the packet. */
static __noinline enum reason store_flow(void *map, const struct flow_key *key, const struct flow *f, __u64 mirror_flag)
{
	struct flow_key mirror;
	struct flow reply;
	long err;

	mirror_key(&mirror, f, key);
	mirror_value(&reply, f, key);
	err = bpf_map_update_elem(map, &mirror, &reply, mirror_flag);
	if (err)
		return err == -EEXIST ? REASON_NO_PORT : REASON_FLOWS_FULL;
	if (bpf_map_update_elem(map, key, f, BPF_ANY)) {
		bpf_map_delete_elem(map, &mirror);
		return REASON_FLOWS_FULL;
	}
	return 0;
}

/* Whether the pod already has a live flow of another VIP or port whose replies would look just like this one's. One that is
 * over is forgotten: left in flows, it would speak for the replies of the new one. Closed is over at once, TIME_WAIT or not:
 * the pod's own TCP judges the SYN, and a client that reuses its port for another VIP must not wait for a minute. */
static __noinline int collides(const struct flow_key *key, const struct flow *f)
{
	struct flow_key mirror;
	struct found other;
	int live = 1;

	mirror_key(&mirror, f, key);
	other = find_flow(&mirror);
	if (!other.flow)
		return 0;
	if (same_address(&other.flow->src, &key->dst) && other.flow->sport == key->dport)
		return 0; /* the very same flow, whose other half was evicted */
	if (is_closed(other.flow))
		live = 0;
	else if (!other.confirmed)
		live = !is_idle(other.flow, f->seen, key->proto == IPPROTO_UDP ? DATAGRAM_AGE : HALF_OPEN_AGE);
	if (!live)
		forget(&mirror, other.flow);
	return live;
}

/* Moves a half-open flow to flows. Called with the direction towards the pod. Returns 0, or the reason to drop. */
static __noinline enum reason confirm(const struct flow_key *key, const struct flow *f)
{
	struct flow copy = *f;
	enum reason refused;
	struct flow_key mirror;

	copy.flags &= ~FLOW_SYNACK_SEEN;
	copy.expect = 0;
	refused = store_flow(&flows, key, &copy, BPF_ANY);
	if (refused)
		return refused;
	mirror_key(&mirror, &copy, key);
	bpf_map_delete_elem(&half_open, &mirror);
	bpf_map_delete_elem(&half_open, key);
	return 0;
}

/* What the first packet of a flow tells of its end: it may be the last one, where this node took the flow over. */
static __always_inline __u32 closing(const struct packet *p)
{
	if (p->key.proto != IPPROTO_TCP || p->tcp_flags & TCP_FLAG_SYN_BIT)
		return 0;
	if (p->tcp_flags & TCP_FLAG_RST_BIT)
		return FLOW_RESET;
	return p->tcp_flags & TCP_FLAG_FIN_BIT ? FLOW_FIN : 0;
}

/* Notes FIN and RST on both directions. Rare, so it may look up the mirror. */
static __noinline void note_close(const struct flow_key *key, struct flow *f, __u8 tcp_flags)
{
	struct flow_key mirror;
	struct found other;

	__sync_fetch_and_or(&f->flags, tcp_flags & TCP_FLAG_RST_BIT ? FLOW_RESET : FLOW_FIN);
	mirror_key(&mirror, f, key);
	other = find_flow(&mirror);
	if (other.flow)
		__sync_fetch_and_or(&other.flow->flags, tcp_flags & TCP_FLAG_RST_BIT ? FLOW_RESET : FLOW_PEER_FIN);
}

/* The pod's SYN-ACK of a half-open flow: tells the other direction which ACK confirms it. */
static __noinline void note_syn_ack(const struct flow_key *key, const struct flow *f, __u32 seq)
{
	struct flow_key mirror;
	struct flow *forward;

	mirror_key(&mirror, f, key);
	forward = bpf_map_lookup_elem(&half_open, &mirror);
	if (!forward)
		return;
	forward->expect = seq + 1;
	__sync_fetch_and_or(&forward->flags, FLOW_SYNACK_SEEN);
}

/* Written only when it changes, so that packets of one flow on several CPUs do not fight for the cache line. */
static __always_inline void touch(struct flow *f, __u32 time)
{
	if (f->seen != time)
		f->seen = time;
}
