/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Scope: every type that crosses between the programs and Go. bpf2go exports them; nothing mirrors them by hand. */
#pragma once

#include <linux/types.h>

/* An address of either family: IPv4 is mapped into ::ffff:0:0/96 (RFC 4291 section 2.5.5.2), so one lookup serves both. */
struct address {
	__be32 word[4];
};

_Static_assert(sizeof(struct address) == 16, "address is 128 bits");

/* addresses: what this node knows of an address on one of its masters. */
struct address_key {
	struct address addr;
	__u32 ifindex; /* of the master, host order */
};

_Static_assert(sizeof(struct address_key) == 20, "no hidden padding in a key");

enum address_kind {
	ADDRESS_UNKNOWN = 0, /* never stored */
	ADDRESS_VIP,	     /* a Service's address */
	ADDRESS_POD,	     /* a local pod's address */
	ADDRESS_NODE,	     /* the node's own address on the master */
};

/* Facts of a master, repeated in each of its addresses: that is what the programs look up in any case. */
enum master_flag {
	/* A local pod has the master's own MAC. Without MASTER_IPVLAN this is macvlan passthru: the pod gets all unicast that
	 * is sent to that MAC, and the node's stack none. */
	MASTER_SHARED = 1,
	MASTER_APART = 2, /* a local pod and its siblings meet on the wire alone (macvlan private, vepa) */
	/* Its pods and the node share its MAC, and what a pod sends to a sibling never comes by (ipvlan). MASTER_SHARED is
	 * set as well. */
	MASTER_IPVLAN = 4,
	MASTER_ROUTED = 8, /* its pods hear and answer no ARP, nor Neighbor Discovery (ipvlan l3, l3s) */
};

struct address_info {
	__u8 kind;   /* enum address_kind */
	__u8 mac[6]; /* who answers for it on this node: the pod, or the master */
	__u8 flags;  /* enum master_flag */
};

_Static_assert(sizeof(struct address_info) == 8, "");

/* owners: presence of the key means that this node answers ARP from the wire for the VIP. */
struct owner {
	__u32 flags; /* reserved, 0 */
};

/* stations: who has a MAC on a master's segment, as far as this node must know. */
struct station_key {
	__u32 ifindex; /* of the master, host order */
	__u8 mac[6];
	__u8 pad[2];
};

_Static_assert(sizeof(struct station_key) == 12, "no hidden padding in a key");

enum station_kind {
	STATION_UNKNOWN = 0, /* never stored */
	STATION_POD,	     /* a local attachment */
	STATION_PEER,	     /* the master of another node, which may own VIPs and send their packets here */
};

enum station_flag {
	STATION_PRIVATE = 1, /* a pod that shall not talk to its siblings: macvlan private */
};

struct station {
	__u16 kind;  /* enum station_kind */
	__u16 flags; /* enum station_flag */
	__s32 netns; /* of a pod, as the host's namespace numbers it; -1 if it has no number */
};

_Static_assert(sizeof(struct station) == 8, "");

/* services: one VIP, protocol and port. */
struct service_key {
	struct address addr;
	__u32 ifindex; /* of the master, host order */
	__be16 port;
	__u8 proto;
	__u8 pad;
};

_Static_assert(sizeof(struct service_key) == 24, "no hidden padding in a key");

enum service_flag {
	SERVICE_RANGES = 1,   /* only clients in allowed may open flows */
	SERVICE_AFFINITY = 2, /* a client's flows go to one pod */
};

struct service {
	__u32 id;	  /* never 0 */
	__u32 table;	  /* key of tables; 0: no backend takes new flows */
	__u32 table_size; /* slots of that table */
	__u32 flags;	  /* enum service_flag */
	__u32 affinity;	  /* for how long after its last new flow, in units of 2^30 ns */
};

/* allowed: the clients of a service. A longest-prefix match; the service counts as the first 32 bits. */
struct allowed_key {
	__u32 prefix_len; /* bits, with the service's 32; host order */
	__u32 service;	  /* id */
	struct address addr;
};

_Static_assert(sizeof(struct allowed_key) == 24, "no hidden padding in a key");

/* affinities: the pod that a client's flows go to. */
struct affinity_key {
	struct address client;
	__u32 service; /* id */
};

_Static_assert(sizeof(struct affinity_key) == 20, "no hidden padding in a key");

struct affinity {
	__u32 backend;
	__u32 seen; /* last new flow, in units of 2^30 ns of CLOCK_MONOTONIC */
};

/* backends: one endpoint of one service. */
enum backend_flag {
	BACKEND_LOCAL = 1, /* its pod is attached to this node */
	BACKEND_OPEN = 2,  /* it takes new flows: the service's table has it */
};

struct backend {
	struct address addr;
	__u32 service; /* id of the service that it belongs to */
	__s32 netns;   /* of its pod, if local; else -1 */
	__u8 mac[6];
	__be16 port;
	__u32 flags; /* enum backend_flag */
};

_Static_assert(sizeof(struct backend) == 36, "");

/* local_backends: which backend of a service a frame means that was sent to a local pod's MAC. */
struct local_backend_key {
	__u32 service;
	__u8 mac[6];
	__u8 pad[2];
};

_Static_assert(sizeof(struct local_backend_key) == 12, "no hidden padding in a key");

/* flows, half_open, datagrams, selections: a packet's own tuple, as it arrives. */
struct flow_key {
	struct address src;
	struct address dst;
	__u32 ifindex; /* of the master, host order */
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};

_Static_assert(sizeof(struct flow_key) == 44, "no hidden padding in a key");

enum flow_flag {
	FLOW_REPLY = 1,	       /* from the pod; otherwise towards the pod */
	FLOW_HAIRPIN = 2,      /* replies would not come by, as between a pod and itself: both ends are replaced */
	FLOW_FIN = 4,	       /* this direction has sent its FIN */
	FLOW_PEER_FIN = 8,     /* the other direction has sent its FIN */
	FLOW_RESET = 16,       /* either side has sent a RST */
	FLOW_SYNACK_SEEN = 32, /* the pod's SYN-ACK passed here; expect holds the ACK number that confirms it */
};

/* What the backend's node remembers of one direction of a connection: how a packet of that direction leaves here. The
 * other direction's key is (dst, src, dport, sport) of this value, so each entry finds its mirror. */
struct flow {
	struct address src;
	struct address dst;
	__be16 sport;
	__be16 dport;
	__u8 mac[6]; /* new destination MAC: the pod's; zero in a reply that keeps its own */
	__u8 pad[2];
	__u32 flags; /* enum flow_flag; changed by atomic or, because both directions may arrive at once */
	__u32 backend;
	__u32 seen;   /* last packet, in units of 2^30 ns of CLOCK_MONOTONIC */
	__u32 expect; /* see FLOW_SYNACK_SEEN; host order */
};

_Static_assert(sizeof(struct flow) == 60, "");

/* selections: what this node chose for a flow whose pod lives elsewhere. A cache: the table gives the same answer as long
 * as the backends do not change. */
struct selection {
	__u32 backend;
	__u32 flags; /* enum selection_flag */
};

enum selection_flag {
	SELECTION_ESTABLISHED = 1, /* the client has sent more than SYNs: the next SYN is a new connection */
};

/* backend_stats: per CPU; what this node sent towards a backend. */
struct traffic {
	__u64 flows;
	__u64 packets;
	__u64 bytes;
};

/* buckets: what the programs answer by themselves, each with its own limit. */
enum answer {
	ANSWER_ECHO,
	ANSWER_RESET,
	ANSWER_UNREACHABLE,
	ANSWER_MAX,
};

struct bucket {
	__u64 filled; /* CLOCK_MONOTONIC, ns, coarse */
	__s64 saved;  /* ns that answers may still cost */
};

#define ICMP_HEADER_LEN 8

/* scratch: an ICMP message that quotes a packet, as much of it as fits into one that needs no fragments: 576 octets (RFC 1812
 * section 4.3.2.3), 1,280 in IPv6 (RFC 4443 section 3.1). */
#define ICMP_QUOTE_MAX (576 - 20 - ICMP_HEADER_LEN)
#define ICMPV6_QUOTE_MAX (1280 - 40 - ICMP_HEADER_LEN)

struct icmp_answer {
	__be16 type_code;
	__sum16 check;
	__be32 unused;
	__u8 quoted[ICMPV6_QUOTE_MAX];
};

_Static_assert(sizeof(struct icmp_answer) == ICMP_HEADER_LEN + ICMPV6_QUOTE_MAX, "no hidden padding under a checksum");

enum direction {
	DIRECTION_INGRESS = 0,
	DIRECTION_EGRESS = 1,
	DIRECTION_MAX = 2,
};

/* Every packet ends with exactly one of these, counted per direction. A new drop needs a new reason. */
enum reason {
	/* Left alone. */
	REASON_MISS = 0,  /* neither to a VIP nor of a flow of ours */
	REASON_TAGGED,	  /* of a VLAN: belongs to a sub-interface */
	REASON_FLOODED,	  /* to a VIP, but its destination MAC is another station's */
	REASON_FORWARDED, /* our own forwarded frame, seen again as it leaves */
	REASON_MALFORMED, /* a header is cut off or contradicts itself */

	/* Served. */
	REASON_ARP_REPLY,   /* answered for a VIP, or for the node and its pods among themselves */
	REASON_ND_REPLY,    /* the same for a Neighbor Solicitation */
	REASON_ECHO_REPLY,  /* an echo request to a VIP, answered */
	REASON_REFUSED,	    /* the Service has no backend, and the client was told */
	REASON_ICMP_ERROR,  /* about a flow of ours, translated and delivered */
	REASON_NEW_FLOW,    /* first packet of a flow, delivered to a local pod */
	REASON_LOCAL,	    /* further packet of a flow, delivered to a local pod */
	REASON_REMOTE,	    /* sent on to the pod's node by its MAC alone */
	REASON_UNNAT,	    /* a pod's reply, given the VIP back */
	REASON_TURNED_BACK, /* between the node and its own pods, which a switch would not reflect */
	REASON_TO_NODE,	    /* a VIP's answer to the node, kept from the pod that has its MAC (macvlan passthru) */

	/* Dropped. */
	REASON_NOT_OWNER,	     /* an echo request from the wire, to a VIP that another node answers for */
	REASON_ANSWER_LIMIT,	     /* too many answers of this kind in a second */
	REASON_ICMP_UNRELATED,	     /* an ICMP error to a VIP, about no flow that this node knows */
	REASON_NO_SERVICE,	     /* to a VIP, but no Service has that protocol and port */
	REASON_SOURCE,		     /* the client is in none of the Service's source ranges */
	REASON_NO_BACKEND,	     /* the Service has no backend for new flows */
	REASON_NOT_SELECTED,	     /* sent to a local pod that is no backend of the Service */
	REASON_FRAGMENT,	     /* fragments to or from a VIP are not served yet */
	REASON_UNSUPPORTED_PROTOCOL, /* to a VIP, but neither TCP nor UDP, or behind headers that are not walked */
	REASON_FLOWS_FULL,	     /* flows is full: a new flow is refused, established ones stay */
	REASON_COLLISION,	     /* the pod already has a live flow with the same client address and port */
	REASON_ISOLATED,	     /* none of ours, between a pod in private mode and its sibling */
	REASON_NO_PORT,		     /* no free port for a client whose address is replaced */
	REASON_REWRITE,		     /* the kernel refused a checksum helper */
	REASON_MAX,
};

/* bpf2go -type finds only what something refers to. */
#define EXPORT(name) const enum name *export_##name __attribute__((unused))
EXPORT(answer);
EXPORT(address_kind);
EXPORT(master_flag);
EXPORT(station_kind);
EXPORT(station_flag);
EXPORT(backend_flag);
EXPORT(service_flag);
EXPORT(flow_flag);
EXPORT(selection_flag);
EXPORT(direction);
EXPORT(reason);
