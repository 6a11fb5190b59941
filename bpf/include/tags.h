/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: VLAN tags (IEEE 802.1Q). A tag with a VLAN id puts the frame into a VLAN, which is a sub-interface's. A priority
 * tag has VLAN id 0 (clause 6.9): its frame belongs to the untagged segment, and keeps its tag on all its way. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "parse.h"

#define VLAN_ID 0x0fff

/* Moves a priority tag from the inside of the frame to where the kernel keeps a tag beside it, and will put it back in from
 * there when the frame leaves (validate_xmit_vlan in net/core/dev.c). Received frames come with it taken out; a pod may
 * send it inside. What cannot be moved stays, for parse to see: the kernel goes by skb->protocol, which a pod's packet
 * socket may have set to something else. */
static __noinline int move_priority_tag(struct __sk_buff *skb)
{
	struct {
		struct ethhdr eth;
		__be16 tci;
	} *tagged;
	__be16 proto, tci;

	if (!linear(skb, sizeof(*tagged)))
		return 0;
	tagged = frame(skb);
	if ((void *)(tagged + 1) > frame_end(skb))
		return 0;
	proto = tagged->eth.h_proto;
	tci = bpf_ntohs(tagged->tci);
	if (!is_vlan(proto) || tci & VLAN_ID)
		return 0;
	return bpf_skb_vlan_pop(skb) ?: bpf_skb_vlan_push(skb, proto, tci);
}

/* Whether the tag beside the frame, if any, says that it is of a VLAN. */
static __always_inline int is_tagged(struct __sk_buff *skb)
{
	if (!skb->vlan_present) {
		if (is_vlan(skb->protocol))
			move_priority_tag(skb);
		return 0;
	}
	return skb->vlan_tci & VLAN_ID;
}
