/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: the maps. All are pinned by name under the agent's directory on bpffs, so that traffic goes on while the agent
 * is away and the next agent finds what is there. Sizes marked (default) are set by Go before they are created. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "types.h"

/* address on a master -> what it is. Writer: dataplane. Reader: both programs, first of all look-ups, so that foreign
 * packets cost little. Size: VIPs, local pods' addresses and the node's own. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct address_key);
	__type(value, struct address_info);
} addresses SEC(".maps");

/* VIP on a master -> this node owns it. Writer: dataplane/owner. Reader: the ARP responder. Size: VIPs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct address_key);
	__type(value, struct owner);
} owners SEC(".maps");

/* MAC on a master -> station. Writer: dataplane. Reader: both programs, to tell frames for our pods from flooded ones, and
 * those that a peer sent on from those of clients. Size: attachments of one node, and the nodes of its segments. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct station_key);
	__type(value, struct station);
} stations SEC(".maps");

/* VIP, protocol, port -> service. Writer: dataplane; a value is replaced whole, which swaps the table atomically. Reader:
 * both programs on new flows. Size: ports of Services on this node's networks. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

/* backend id -> backend. Writer: dataplane, before any table names the id. Reader: both programs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

/* service and local pod's MAC -> backend id. Writer: dataplane. Reader: the backend role. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct local_backend_key);
	__type(value, __u32);
} local_backends SEC(".maps");

/* table id -> Maglev table: slot -> backend id. Writer: dataplane, whole tables under new ids, outer entries in one batch
 * because each single write waits for RCU. Reader: the owner role. Inner maps differ in size (kernel >= 5.10). */
struct maglev_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP);
	__type(key, __u32);
	__type(value, __u32);
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__array(values, struct maglev_table);
} tables SEC(".maps");

/* service and client's prefix -> allowed. Writer: dataplane, before the service has SERVICE_RANGES. Reader: both programs on new
 * flows. Size: source ranges of all Services' ports. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct allowed_key);
	__type(value, __u32);
} allowed SEC(".maps");

/* client and service -> backend that it keeps. Writer: programs, on new flows. LRU: whom it forgets, the hash of the client's
 * address gives the same pod again as long as the backends do not change. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} affinities SEC(".maps");

/* TCP tuple -> confirmed flow, both directions. Writer: programs; aged by the agent. Plain hash: a full map refuses new
 * flows and never evicts established ones. Memory follows use. Size (default): 2 entries a connection. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/* TCP tuple -> flow that no one has confirmed yet. Writer: programs. LRU, small: a SYN flood evicts only itself. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct flow_key);
	__type(value, struct flow);
} half_open SEC(".maps");

/* UDP tuple -> flow, both directions. Writer: programs. LRU: UDP has no handshake that could confirm a flow. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct flow_key);
	__type(value, struct flow);
} datagrams SEC(".maps");

/* tuple -> backend elsewhere that this node chose for it. Writer: programs. LRU: a cache, not a promise. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct flow_key);
	__type(value, struct selection);
} selections SEC(".maps");

/* backend id -> what was sent towards it. Entries are made and removed by dataplane with the backend. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct traffic);
} backend_stats SEC(".maps");

/* direction * REASON_MAX + reason -> packets. Writer: programs. Reader: the metrics collector. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DIRECTION_MAX *REASON_MAX);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* enum answer -> what of it this CPU may still send. Writer: programs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ANSWER_MAX);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct bucket);
} buckets SEC(".maps");

/* Room for one message, because the stack has none. Writer and reader: programs, within one packet. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct icmp_answer);
} scratch SEC(".maps");
