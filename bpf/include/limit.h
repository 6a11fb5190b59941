/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: how many packets the programs may make up themselves. Whatever anyone can ask for without proof of his address must
 * not become a flood towards another. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "maps.h"
#include "types.h"

#define SECOND 1000000000LL

/* Takes a token of this CPU's bucket for that kind of answer. False: there is none, say nothing. */
static __noinline int may_answer(enum answer kind)
{
	__u32 slot = kind;
	__u64 now = bpf_ktime_get_coarse_ns();
	struct bucket *b = bpf_map_lookup_elem(&buckets, &slot);

	if (!b)
		return 0;
	/* In nanoseconds instead of tokens: refilling is an addition, and a full bucket a bound on it. */
	b->saved += now - b->filled;
	b->filled = now;
	if (b->saved > SECOND)
		b->saved = SECOND;
	if (b->saved < answer_interval)
		return 0;
	b->saved -= answer_interval;
	return 1;
}
