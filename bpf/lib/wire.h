/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Bytes shared with user space. The twin of this file is mesh/wire/maps.ts: a test compares sizes and offsets of both
 * through the BTF of the compiled objects. Bump MESH_LAYOUT_VERSION with every change that keeps a size.
 */
#ifndef MESH_WIRE_H
#define MESH_WIRE_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stddef.h>

#define MESH_LAYOUT_VERSION 1

#define ASSERT_SIZE(type, size) _Static_assert(sizeof(type) == (size), "size of " #type)
#define ASSERT_OFFSET(type, field, offset)                                                                         \
	_Static_assert(offsetof(type, field) == (offset), "offset of " #type "." #field)

/* An address of either family; IPv4 in its mapped form ::ffff:a.b.c.d. Network order. */
struct mesh_address {
	__be32 words[4];
};
ASSERT_SIZE(struct mesh_address, 16);

/* mesh_ipcache4, mesh_ipcache6: who is behind a prefix. */
struct mesh_ipcache4_key {
	__u32 prefixlen;
	__be32 address;
};
ASSERT_SIZE(struct mesh_ipcache4_key, 8);
ASSERT_OFFSET(struct mesh_ipcache4_key, address, 4);

struct mesh_ipcache6_key {
	__u32 prefixlen;
	struct mesh_address address;
};
ASSERT_SIZE(struct mesh_ipcache6_key, 20);
ASSERT_OFFSET(struct mesh_ipcache6_key, address, 4);

/* tunnel_endpoint counts. Without it the address is reached through the node's own routes. */
#define IPCACHE_HAS_TUNNEL 1

struct mesh_ipcache_value {
	__u32 identity;
	struct mesh_address tunnel_endpoint;
	__u16 cluster_id;
	__u8 flags;
	__u8 pad;
};
ASSERT_SIZE(struct mesh_ipcache_value, 24);
ASSERT_OFFSET(struct mesh_ipcache_value, tunnel_endpoint, 4);
ASSERT_OFFSET(struct mesh_ipcache_value, cluster_id, 20);
ASSERT_OFFSET(struct mesh_ipcache_value, flags, 22);

/* mesh_endpoints: address -> endpoint of this node. */
#define ENDPOINT_INGRESS_ENFORCED 1
#define ENDPOINT_EGRESS_ENFORCED 2

struct mesh_endpoint {
	__u32 ifindex;
	__u32 identity;
	__u16 endpoint_id;
	__u16 flags;
	__u8 mac[6];
	__u8 pad[2];
	/* Name of the interface, for user space after a restart; zero-terminated. */
	__u8 interface[16];
};
ASSERT_SIZE(struct mesh_endpoint, 36);
ASSERT_OFFSET(struct mesh_endpoint, identity, 4);
ASSERT_OFFSET(struct mesh_endpoint, endpoint_id, 8);
ASSERT_OFFSET(struct mesh_endpoint, flags, 10);
ASSERT_OFFSET(struct mesh_endpoint, mac, 12);
ASSERT_OFFSET(struct mesh_endpoint, interface, 20);

/*
 * mesh_policy: identity, endpoint and direction always count in full; then protocol (8 bits) and the high bits of the
 * port, as many as prefixlen says. pad is beyond every prefix.
 */
#define DIRECTION_INGRESS 0
#define DIRECTION_EGRESS 1

#define POLICY_STATIC_BITS 56
#define POLICY_FULL_BITS 80

struct mesh_policy_key {
	__u32 prefixlen;
	__u32 identity;
	__u16 endpoint_id;
	__u8 direction;
	__u8 protocol;
	__be16 port;
	__u8 pad[2];
};
ASSERT_SIZE(struct mesh_policy_key, 16);
ASSERT_OFFSET(struct mesh_policy_key, identity, 4);
ASSERT_OFFSET(struct mesh_policy_key, endpoint_id, 8);
ASSERT_OFFSET(struct mesh_policy_key, direction, 10);
ASSERT_OFFSET(struct mesh_policy_key, protocol, 11);
ASSERT_OFFSET(struct mesh_policy_key, port, 12);

#define POLICY_DENY 1

struct mesh_policy_value {
	__u8 flags;
	/* prefixlen of the row less POLICY_STATIC_BITS: a lookup does not tell how long the match was. */
	__u8 width;
	__u8 pad[2];
};
ASSERT_SIZE(struct mesh_policy_value, 4);
ASSERT_OFFSET(struct mesh_policy_value, width, 1);

/* mesh_services: slot 0 holds the number of backends, slots 1 to count a backend each. */
struct mesh_service_key {
	struct mesh_address address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
	__u32 slot;
};
ASSERT_SIZE(struct mesh_service_key, 24);
ASSERT_OFFSET(struct mesh_service_key, port, 16);
ASSERT_OFFSET(struct mesh_service_key, protocol, 18);
ASSERT_OFFSET(struct mesh_service_key, slot, 20);

struct mesh_service_value {
	/* Slot 0 only. */
	__u32 count;
	/* Slots from 1 only. */
	__u32 backend_id;
};
ASSERT_SIZE(struct mesh_service_value, 8);
ASSERT_OFFSET(struct mesh_service_value, backend_id, 4);

/* mesh_backends: backend id (__u32) -> backend. */
struct mesh_backend {
	struct mesh_address address;
	__be16 port;
	__u16 cluster_id;
	__u8 protocol;
	__u8 pad[3];
};
ASSERT_SIZE(struct mesh_backend, 24);
ASSERT_OFFSET(struct mesh_backend, port, 16);
ASSERT_OFFSET(struct mesh_backend, cluster_id, 18);
ASSERT_OFFSET(struct mesh_backend, protocol, 20);

/*
 * mesh_translations: (socket, backend) -> the frontend that the socket called, to answer it with the address that it
 * knows. mesh_choices: (socket, frontend) -> the backend that its datagrams go to.
 */
struct mesh_socket_key {
	__u64 cookie;
	struct mesh_address address;
	__be16 port;
	__u8 pad[6];
};
ASSERT_SIZE(struct mesh_socket_key, 32);
ASSERT_OFFSET(struct mesh_socket_key, address, 8);
ASSERT_OFFSET(struct mesh_socket_key, port, 24);

struct mesh_translation {
	struct mesh_address address;
	__be16 port;
	__u8 pad[2];
};
ASSERT_SIZE(struct mesh_translation, 20);
ASSERT_OFFSET(struct mesh_translation, port, 16);

/* Holds while this slot of the frontend still has this backend. */
struct mesh_choice {
	__u32 slot;
	__u32 backend_id;
};
ASSERT_SIZE(struct mesh_choice, 8);
ASSERT_OFFSET(struct mesh_choice, backend_id, 4);

/*
 * mesh_ct: a flow as its first packet had it, seen from one endpoint. An ingress entry was let in by policy, an egress
 * entry was sent by an endpoint of this node: each lets the answers of its own flow through, and nothing else.
 */
struct mesh_ct_key {
	struct mesh_address source;
	struct mesh_address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 direction;
	__u8 pad[2];
};
ASSERT_SIZE(struct mesh_ct_key, 40);
ASSERT_OFFSET(struct mesh_ct_key, destination, 16);
ASSERT_OFFSET(struct mesh_ct_key, source_port, 32);
ASSERT_OFFSET(struct mesh_ct_key, destination_port, 34);
ASSERT_OFFSET(struct mesh_ct_key, protocol, 36);
ASSERT_OFFSET(struct mesh_ct_key, direction, 37);

#define CT_REPLIED 1
#define CT_FIN_FORWARD 2
#define CT_FIN_REPLY 4
#define CT_RESET 8

struct mesh_ct_value {
	/* Clock of bpf_ktime_get_coarse_ns(). */
	__u64 expires_ns;
	/* Identity of the other side when the flow was last seen. */
	__u32 identity;
	__u8 flags;
	__u8 pad[3];
};
ASSERT_SIZE(struct mesh_ct_value, 16);
ASSERT_OFFSET(struct mesh_ct_value, identity, 8);
ASSERT_OFFSET(struct mesh_ct_value, flags, 12);

/* mesh_fragments: ports of a datagram whose first fragment was seen, for the fragments that carry none. */
struct mesh_fragment_key {
	struct mesh_address source;
	struct mesh_address destination;
	__be32 id;
	__u8 protocol;
	__u8 pad[3];
};
ASSERT_SIZE(struct mesh_fragment_key, 40);
ASSERT_OFFSET(struct mesh_fragment_key, id, 32);
ASSERT_OFFSET(struct mesh_fragment_key, protocol, 36);

struct mesh_fragment_value {
	__be16 source_port;
	__be16 destination_port;
};
ASSERT_SIZE(struct mesh_fragment_value, 4);

/* mesh_config: one entry. */
struct mesh_config {
	__u32 layout_version;
	__u32 tunnel_ifindex;
	/* Own cluster. */
	__u16 cluster_id;
	/* How far an identity is shifted right to get its cluster: 16 in a mesh of 255, 15 in one of 511. */
	__u8 cluster_shift;
	__u8 pad;
};
ASSERT_SIZE(struct mesh_config, 12);
ASSERT_OFFSET(struct mesh_config, tunnel_ifindex, 4);
ASSERT_OFFSET(struct mesh_config, cluster_id, 8);
ASSERT_OFFSET(struct mesh_config, cluster_shift, 10);

/* mesh_metrics: per CPU, index reason * 2 + direction. */
struct mesh_counter {
	__u64 packets;
	__u64 bytes;
};
ASSERT_SIZE(struct mesh_counter, 16);
ASSERT_OFFSET(struct mesh_counter, bytes, 8);

/* Reasons of mesh_metrics. Numbers are kept for ever; names and advice are in mesh/wire/maps.ts and docs/datapath.md. */
enum mesh_reason {
	COUNT_FORWARDED = 0,
	COUNT_FORWARDED_OVERLAY = 1,
	COUNT_PASSED_TO_STACK = 2,
	COUNT_SERVICE_TRANSLATED = 3,
	DROP_POLICY_DENIED = 16,
	DROP_POLICY_DENY_RULE = 17,
	DROP_INVALID_SOURCE = 18,
	DROP_INVALID_PACKET = 19,
	DROP_UNSUPPORTED_PROTOCOL = 20,
	DROP_FRAGMENT_NOT_FOUND = 21,
	DROP_NO_ENDPOINT = 22,
	DROP_INVALID_IDENTITY = 23,
	DROP_NO_TUNNEL_KEY = 24,
	DROP_OVERLAY_SOURCE_UNKNOWN = 25,
	DROP_OVERLAY_SOURCE_MISMATCH = 26,
	DROP_OVERLAY_CLUSTER_MISMATCH = 27,
	DROP_TUNNEL_FAILED = 28,
	DROP_NO_CONFIG = 29,
	DROP_SERVICE_NO_BACKEND = 30,
	MESH_REASONS = 64,
};

#define IDENTITY_HOST 1
#define IDENTITY_WORLD 2
#define IDENTITY_REMOTE_NODE 6
#define IDENTITY_KUBE_APISERVER 7
/* Identities below are reserved or well known, and name no cluster. */
#define IDENTITY_FIRST_ALLOCATED 256

#endif
