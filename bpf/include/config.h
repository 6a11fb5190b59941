/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: constants that Go sets before a program is loaded; the verifier prunes what they rule out. */
#pragma once

#include <linux/types.h>

/* MAC of the interface that this copy of the programs is attached to. */
volatile const __u8 master_mac[6] __attribute__((aligned(2)));

/* Ports that a client is given with the VIP's address: IANA's dynamic range (RFC 6335 section 6). */
#define PORT_FIRST 49152
#define PORT_COUNT 16384

/* Nanoseconds of a CPU's time that one answer of a kind costs (enum answer): 1,000 in a second, as Linux limits its own ICMP
 * messages (sysctl net.ipv4.icmp_msgs_per_sec). */
volatile const __u32 answer_interval = 1000000;

/* A Service without backends drops packets instead of refusing connections. */
volatile const __u8 no_backend_drop;
