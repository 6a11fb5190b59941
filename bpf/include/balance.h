/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: what happens to a packet to a VIP, and to a pod's reply. Each function returns the packet's reason and, where it
 * is not simply passed on or dropped, sets *action. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "addresses.h"
#include "flows.h"
#include "maps.h"
#include "parse.h"
#include "refuse.h"
#include "rewrite.h"
#include "select.h"
#include "sockets.h"
#include "types.h"

/* Sends a packet to the local pod of f. At ingress the macvlan's rx handler reads the destination MAC after us; at egress the
 * packet must turn round, because a switch sends nothing back where it came from. */
static __always_inline int steer_to_pod(struct __sk_buff *skb, const struct packet *p, const struct flow *f,
					enum direction dir, int *action)
{
	if (dir == DIRECTION_EGRESS)
		*action = bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	return rewrite_macs(skb, load_mac(f->mac), p->src_mac);
}

/* A pod's reply keeps its MACs. To the node itself, or to a pod that is kept apart, it must turn round: the wire would not
 * bring it back. */
static __always_inline void steer_to_client(struct __sk_buff *skb, const struct packet *p, enum direction dir,
					    int *action)
{
	if (dir == DIRECTION_EGRESS &&
	    (is_master(p->dst_mac) || (p->master & MASTER_APART && is_local_mac(skb->ifindex, p->dst_mac))))
		*action = bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

static __always_inline enum reason deliver(struct __sk_buff *skb, const struct packet *p, const struct flow *f,
					   enum direction dir, enum reason served, int *action)
{
	if (steer_to_pod(skb, p, f, dir, action) || rewrite_tuple(skb, p, f))
		return REASON_REWRITE;
	return served;
}

/* Sends a packet on to the pod's node. Only the MACs change: the VIP stays, and tells that node all it needs. */
static __always_inline enum reason forward(struct __sk_buff *skb, __u32 id, const struct backend *b, enum direction dir,
					   __u32 new_flows, int *action)
{
	count_backend(skb, id, new_flows);
	if (rewrite_macs(skb, load_mac(b->mac), load_mac(master_mac)))
		return REASON_REWRITE;
	if (dir == DIRECTION_INGRESS)
		*action = bpf_redirect(skb->ifindex, 0);
	return REASON_REMOTE;
}

/* Whether the client must get another address: a pod that talks to itself, whose stack would take the packet for a martian;
 * whoever is on this node, if the backend is an ipvlan, whose replies to siblings and to the host do not come by here; and the
 * node, if the backend is in passthru mode and hears no answer when it asks for the node's MAC. */
static __always_inline int is_hairpin(const struct packet *p, const struct backend *b, enum direction dir)
{
	return same_address(&b->addr, &p->key.src) || (p->master & MASTER_IPVLAN && is_from_here(p, dir)) ||
	       (is_passthru(p->master) && dir == DIRECTION_EGRESS && is_from_node(p));
}

/* Gives the client the VIP as address, and a port whose reply tuple is free. */
static __noinline int hairpin_port(const struct flow_key *key, struct flow *f)
{
	__u32 start = bpf_get_prandom_u32();

	f->src = key->dst;
	f->flags |= FLOW_HAIRPIN;
	for (int i = 0; i < 8; i++) {
		struct flow_key mirror;

		f->sport = bpf_htons(PORT_FIRST + (start + i) % PORT_COUNT);
		mirror_key(&mirror, f, key);
		if (!find_flow(&mirror).flow)
			return 0;
	}
	return -1;
}

/* First packet of a flow to a pod of this node. */
static __noinline enum reason open_flow(struct __sk_buff *skb, const struct packet *p, __u32 id, enum direction dir,
					int *action)
{
	struct backend *b = bpf_map_lookup_elem(&backends, &id);
	struct flow f = {};
	__u64 mirror_flag = BPF_ANY;
	enum reason refused;

	if (!b)
		return REASON_NO_BACKEND;
	f.src = p->key.src;
	f.dst = b->addr;
	f.sport = p->key.sport;
	f.dport = b->port;
	f.backend = id;
	f.seen = now();
	__builtin_memcpy(f.mac, b->mac, sizeof(f.mac));
	if (is_hairpin(p, b, dir)) {
		if (hairpin_port(&p->key, &f))
			return REASON_NO_PORT;
		mirror_flag = BPF_NOEXIST;
	} else if (collides(&p->key, &f)) {
		return REASON_COLLISION;
	}
	f.flags |= closing(p);

	if (p->key.proto == IPPROTO_UDP)
		refused = store_flow(&datagrams, &p->key, &f, mirror_flag);
	else if (!(p->tcp_flags & TCP_FLAG_SYN_BIT) && pod_knows(skb, p, &f, b->netns))
		refused = store_flow(&flows, &p->key, &f, mirror_flag);
	else
		refused = store_flow(&half_open, &p->key, &f, mirror_flag);
	if (refused)
		return refused;
	/* A choice from before the backends or the owner changed must not outlive the flow that is made now. */
	bpf_map_delete_elem(&selections, &p->key);
	count_backend(skb, id, 1);
	return deliver(skb, p, &f, dir, REASON_NEW_FLOW, action);
}

/* Picks a backend for a packet that no flow of this node knows. to_pod: the frame is for a local pod's MAC, so the owner
 * has chosen already. */
static __noinline enum reason place(struct __sk_buff *skb, const struct packet *p, enum direction dir, int to_pod,
				    int *action)
{
	struct selection choice = {};
	struct service *svc;
	struct backend *b;
	__u32 id;

	svc = find_service(&p->key);
	if (!svc)
		return REASON_NO_SERVICE;
	if (!is_allowed(svc, &p->key))
		return REASON_SOURCE;
	if (to_pod) {
		id = meant_backend(svc, p);
		return id ? open_flow(skb, p, id, dir, action) : REASON_NOT_SELECTED;
	}
	id = choose_backend(svc, &p->key);
	if (!id)
		return refuse(skb, p, dir, action);
	b = bpf_map_lookup_elem(&backends, &id);
	if (!b)
		return REASON_NO_BACKEND;
	if (b->flags & BACKEND_LOCAL)
		return open_flow(skb, p, id, dir, action);
	choice.backend = id;
	if (p->key.proto == IPPROTO_TCP && !(p->tcp_flags & TCP_FLAG_SYN_BIT))
		choice.flags = SELECTION_ESTABLISHED;
	bpf_map_update_elem(&selections, &p->key, &choice, BPF_ANY);
	return forward(skb, id, b, dir, 1, action);
}

/* A packet to a VIP whose flow ends on another node, if this node remembers its choice. 0: it does not. */
static __always_inline enum reason repeat_choice(struct __sk_buff *skb, const struct packet *p, enum direction dir,
						 int *action)
{
	struct selection *choice = bpf_map_lookup_elem(&selections, &p->key);
	struct backend *b;

	if (!choice)
		return 0;
	if (p->key.proto == IPPROTO_TCP) {
		int syn = p->tcp_flags & TCP_FLAG_SYN_BIT;

		/* A client that reuses its port is a new client; one that repeats its SYN is not. */
		if (syn && choice->flags & SELECTION_ESTABLISHED)
			return 0;
		if (!syn && !(choice->flags & SELECTION_ESTABLISHED))
			choice->flags = SELECTION_ESTABLISHED;
	}
	b = bpf_map_lookup_elem(&backends, &choice->backend);
	if (!b)
		return 0;
	/* Its pod was attached here, or we learnt only now that it is. */
	if (b->flags & BACKEND_LOCAL)
		return open_flow(skb, p, choice->backend, dir, action);
	return forward(skb, choice->backend, b, dir, 0, action);
}

/* A packet of a known flow towards a local pod. 0: the flow is over, and the packet begins a new one. */
static __always_inline enum reason continue_flow(struct __sk_buff *skb, const struct packet *p, struct found *found,
						 enum direction dir, int *action)
{
	struct flow *f = found->flow;
	enum reason reason, refused;
	__u32 time = now();

	if (p->key.proto == IPPROTO_UDP) {
		if (is_idle(f, time, DATAGRAM_AGE))
			return 0;
	} else if (p->tcp_flags & TCP_FLAG_SYN_BIT) {
		if (is_over(found, time)) {
			forget(&p->key, f);
			return 0;
		}
	} else if (p->tcp_flags & (TCP_FLAG_FIN_BIT | TCP_FLAG_RST_BIT)) {
		note_close(&p->key, f, p->tcp_flags);
	}
	touch(f, time);
	count_backend(skb, f->backend, 0);
	/* Before confirming, which gives f back to half_open: the next packet on another CPU may take its place. */
	reason = deliver(skb, p, f, dir, REASON_LOCAL, action);
	if (!found->confirmed && p->key.proto == IPPROTO_TCP && (p->tcp_flags & TCP_FLAG_ACK_BIT) &&
	    !(p->tcp_flags & TCP_FLAG_RST_BIT)) {
		struct backend *b = bpf_map_lookup_elem(&backends, &f->backend);

		if ((f->flags & FLOW_SYNACK_SEEN && f->expect == p->ack) || (b && pod_knows(skb, p, f, b->netns))) {
			refused = confirm(&p->key, f);
			if (refused)
				return refused;
		}
	}
	return reason;
}

/* A local pod's reply: takes the VIP as its source again. */
static __always_inline enum reason unnat(struct __sk_buff *skb, const struct packet *p, struct flow *f,
					 enum direction dir, int *action)
{
	if (p->key.proto == IPPROTO_TCP) {
		if ((p->tcp_flags & (TCP_FLAG_SYN_BIT | TCP_FLAG_ACK_BIT)) == (TCP_FLAG_SYN_BIT | TCP_FLAG_ACK_BIT))
			note_syn_ack(&p->key, f, p->seq);
		if (p->tcp_flags & (TCP_FLAG_FIN_BIT | TCP_FLAG_RST_BIT))
			note_close(&p->key, f, p->tcp_flags);
	}
	touch(f, now());
	if (f->flags & FLOW_HAIRPIN)
		return deliver(skb, p, f, dir, REASON_UNNAT, action);
	if (rewrite_tuple(skb, p, f))
		return REASON_REWRITE;
	steer_to_client(skb, p, dir, action);
	return REASON_UNNAT;
}
