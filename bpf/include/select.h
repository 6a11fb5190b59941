/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: which backend a new flow gets. Every node must answer alike, so nothing of this node enters the hash. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "flows.h"
#include "maps.h"
#include "parse.h"
#include "types.h"

/* A finalising mix (the constants are those of MurmurHash3's 64-bit finaliser). */
static __always_inline __u64 mix(__u64 x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ULL;
	x ^= x >> 33;
	return x;
}

/* Hash of the tuple without the ifindex, which differs between nodes. Words are taken in network order as they lie in
 * memory on little-endian machines, the only ones that the programs are built for. */
static __always_inline __u32 tuple_hash(const struct flow_key *k)
{
	__u64 h = mix((__u64)k->src.word[0] << 32 | k->src.word[1]);

	h = mix(h ^ ((__u64)k->src.word[2] << 32 | k->src.word[3]));
	h = mix(h ^ ((__u64)k->dst.word[0] << 32 | k->dst.word[1]));
	h = mix(h ^ ((__u64)k->dst.word[2] << 32 | k->dst.word[3]));
	h = mix(h ^ ((__u64)k->sport << 32 | (__u64)k->dport << 16 | k->proto));
	return (__u32)h;
}

static __always_inline struct service *find_service(const struct flow_key *k)
{
	struct service_key key = {
		.addr = k->dst,
		.ifindex = k->ifindex,
		.port = k->dport,
		.proto = k->proto,
	};

	return bpf_map_lookup_elem(&services, &key);
}

/* Hash of the client alone: without ports all of its flows meet one pod, and without the VIP those of a Service's several. */
static __always_inline __u32 client_hash(const struct flow_key *k)
{
	__u64 h = mix((__u64)k->src.word[0] << 32 | k->src.word[1]);

	return (__u32)mix(h ^ ((__u64)k->src.word[2] << 32 | k->src.word[3]));
}

/* Whether the service lets the client open flows. */
static __noinline int is_allowed(const struct service *svc, const struct flow_key *k)
{
	struct allowed_key key = {.prefix_len = 32 + 128, .service = svc->id, .addr = k->src};

	return !(svc->flags & SERVICE_RANGES) || bpf_map_lookup_elem(&allowed, &key) != NULL;
}

/* The table's choice for a flow that nobody remembers, nor its client; 0 if there is none. */
static __noinline __u32 table_backend(const struct service *svc, const struct flow_key *k)
{
	__u32 hash = svc->flags & SERVICE_AFFINITY ? client_hash(k) : tuple_hash(k);
	__u32 slot, *id;
	void *table;

	if (!svc->table || !svc->table_size)
		return 0;
	table = bpf_map_lookup_elem(&tables, &svc->table);
	if (!table)
		return 0;
	/* Scales the hash to the size by its high bits: no division, and no bias that matters at these sizes. */
	slot = (__u64)hash * svc->table_size >> 32;
	id = bpf_map_lookup_elem(table, &slot);
	return id ? *id : 0;
}

/* The pod that the client had last, as long as it takes new flows; or the table's choice, which is remembered. */
static __always_inline __u32 keep_backend(const struct service *svc, const struct flow_key *k)
{
	struct affinity_key key = {.client = k->src, .service = svc->id};
	struct affinity fresh = {.seen = now()};
	struct affinity *last = bpf_map_lookup_elem(&affinities, &key);

	if (last && (__s32)(fresh.seen - last->seen) <= (__s32)svc->affinity) {
		struct backend *b = bpf_map_lookup_elem(&backends, &last->backend);

		if (b && b->flags & BACKEND_OPEN && b->service == svc->id) {
			last->seen = fresh.seen;
			return last->backend;
		}
	}
	fresh.backend = table_backend(svc, k);
	if (fresh.backend)
		bpf_map_update_elem(&affinities, &key, &fresh, BPF_ANY);
	return fresh.backend;
}

/* The backend for a new flow; 0 if there is none. */
static __noinline __u32 choose_backend(const struct service *svc, const struct flow_key *k)
{
	if (svc->flags & SERVICE_AFFINITY)
		return keep_backend(svc, k);
	return table_backend(svc, k);
}

/* The backend that a frame to a local pod's MAC means; 0 if that pod is none of the service's. */
static __always_inline __u32 local_backend(const struct service *svc, __u64 mac)
{
	struct local_backend_key key = {.service = svc->id};
	__u32 *id;

	store_mac(key.mac, mac);
	id = bpf_map_lookup_elem(&local_backends, &key);
	return id ? *id : 0;
}

/* The backend that an owner has chosen for a packet which it sent on to this node; 0 if there is none. ipvlans have one MAC:
 * only the choice made again tells which is meant, and while the tables of two nodes differ, any of this node's serves. */
static __always_inline __u32 meant_backend(const struct service *svc, const struct packet *p)
{
	if (p->master & MASTER_IPVLAN) {
		__u32 id = choose_backend(svc, &p->key);
		struct backend *b = bpf_map_lookup_elem(&backends, &id);

		if (b && b->flags & BACKEND_LOCAL)
			return id;
	}
	return local_backend(svc, p->dst_mac);
}

static __always_inline void count_backend(struct __sk_buff *skb, __u32 backend, __u32 new_flows)
{
	struct traffic *stats = bpf_map_lookup_elem(&backend_stats, &backend);

	if (!stats)
		return;
	stats->flows += new_flows;
	stats->packets++;
	stats->bytes += skb->len;
}
