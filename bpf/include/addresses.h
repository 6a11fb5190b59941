/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: whose address or MAC is it? The first question about every packet, and for foreign ones the last. */
#pragma once

#include <linux/bpf.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"
#include "parse.h"
#include "types.h"

static __always_inline int is_local_mac(__u32 ifindex, __u64 mac)
{
	struct pod_key key = {.ifindex = ifindex};

	store_mac(key.mac, mac);
	return bpf_map_lookup_elem(&pods, &key) != NULL;
}

static __always_inline __u8 address_kind(const struct address_key *key)
{
	struct address_info *info = bpf_map_lookup_elem(&addresses, key);

	return info ? info->kind : ADDRESS_UNKNOWN;
}

static __always_inline __u8 source_kind(const struct packet *p)
{
	struct address_key key = {.addr = p->key.src, .ifindex = p->key.ifindex};

	return address_kind(&key);
}

/* The first look-up of every packet: its key lies ready in the flow's, and is not copied. */
static __always_inline __u8 destination_kind(const struct packet *p)
{
	_Static_assert(offsetof(struct flow_key, ifindex) - offsetof(struct flow_key, dst) ==
			       offsetof(struct address_key, ifindex),
		       "a flow's destination and interface form an address_key");
	return address_kind((const struct address_key *)&p->key.dst);
}
