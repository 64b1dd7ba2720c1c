/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Bytes shared with user space. The twin of this file is mesh/wire/maps.ts: a test compares sizes and offsets of both
 * through the BTF of the compiled objects. With every change, also one that keeps a size, MESH_LAYOUT_VERSION rises, the
 * map's number in agent/datapath/map-schema.ts too, and a converter is written from the one before.
 */
#ifndef MESH_WIRE_H
#define MESH_WIRE_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stddef.h>

#define MESH_LAYOUT_VERSION 2

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
/* What policy denies this endpoint is told and counted, and passes all the same. */
#define ENDPOINT_AUDIT 4

/*
 * The host itself as an endpoint: a machine of the mesh, or a node that policies select. Its row stands under the address
 * "::", which nobody has, so that no other lookup finds it; it has no interface. Its rows of mesh_policy have this number.
 */
#define HOST_ENDPOINT_ID 0xffff

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
 * port, as many as prefixlen says. pad is beyond every prefix. Rows of endpoint 0, for ingress and with
 * POLICY_STATIC_BITS, say no verdict but which identities of pods the agent knows.
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
/*
 * Of a row that allows any identity: of pods only those that the agent knows. Others may be denied by a row that it cannot
 * write yet.
 */
#define POLICY_KNOWN_ONLY 2

struct mesh_policy_value {
	__u8 flags;
	/* prefixlen of the row less POLICY_STATIC_BITS: a lookup does not tell how long the match was. */
	__u8 width;
	__u8 pad[2];
};
ASSERT_SIZE(struct mesh_policy_value, 4);
ASSERT_OFFSET(struct mesh_policy_value, width, 1);

/*
 * mesh_services: slot 0 holds what the frontend is, slots 1 to count a backend each. Scope tells whom it is for: an
 * external lookup that finds nothing takes the internal frontend, if that one has SERVICE_EXTERNAL.
 */
#define SERVICE_SCOPE_INTERNAL 0
#define SERVICE_SCOPE_EXTERNAL 1

struct mesh_service_key {
	struct mesh_address address;
	__be16 port;
	__u8 protocol;
	/* SERVICE_SCOPE_*. */
	__u8 scope;
	__u32 slot;
};
ASSERT_SIZE(struct mesh_service_key, 24);
ASSERT_OFFSET(struct mesh_service_key, port, 16);
ASSERT_OFFSET(struct mesh_service_key, protocol, 18);
ASSERT_OFFSET(struct mesh_service_key, scope, 19);
ASSERT_OFFSET(struct mesh_service_key, slot, 20);

/* May be called from outside the node: NodePort, LoadBalancer, externalIP. */
#define SERVICE_EXTERNAL 1
/* Backends are picked by Maglev, where there are two or more. For user space: the programs go by maglev_size. */
#define SERVICE_MAGLEV 2
/* Its members or its Maglev table are being written: after a crash they cannot be relied on. For user space, too. */
#define SERVICE_WRITING 4

/* All but backend_id in slot 0 only, backend_id in slots from 1 only; what does not count is zero. */
struct mesh_service_value {
	__u32 count;
	__u32 backend_id;
	/* Number of the frontend, never 0: key of its affinity, its members and its Maglev table. */
	__u32 service_id;
	/* How long a client keeps its backend after its last connection; 0: not at all. */
	__u32 affinity_seconds;
	/* Entries of the Maglev table; 0: there is none, the choice is random. */
	__u32 maglev_size;
	/* SERVICE_*. */
	__u16 flags;
	__u16 pad;
};
ASSERT_SIZE(struct mesh_service_value, 24);
ASSERT_OFFSET(struct mesh_service_value, backend_id, 4);
ASSERT_OFFSET(struct mesh_service_value, service_id, 8);
ASSERT_OFFSET(struct mesh_service_value, affinity_seconds, 12);
ASSERT_OFFSET(struct mesh_service_value, maglev_size, 16);
ASSERT_OFFSET(struct mesh_service_value, flags, 20);

/* mesh_backends: backend id (__u32) -> backend. */
struct mesh_backend {
	struct mesh_address address;
	__be16 port;
	__u16 cluster_id;
	__u8 protocol;
	__u8 flags;
	__u8 pad[2];
};
ASSERT_SIZE(struct mesh_backend, 24);
ASSERT_OFFSET(struct mesh_backend, port, 16);
ASSERT_OFFSET(struct mesh_backend, cluster_id, 18);
ASSERT_OFFSET(struct mesh_backend, protocol, 20);
ASSERT_OFFSET(struct mesh_backend, flags, 21);

/* mesh_affinity: (client, frontend) -> the backend that the client had last. */
#define CLIENT_ADDRESS 0
#define CLIENT_NETNS 1

struct mesh_affinity_key {
	/* CLIENT_ADDRESS: an address. CLIENT_NETNS: cookie of a network namespace in its first 8 bytes, then zeroes. */
	struct mesh_address client;
	__u32 service_id;
	/* CLIENT_*. */
	__u8 client_kind;
	__u8 pad[3];
};
ASSERT_SIZE(struct mesh_affinity_key, 24);
ASSERT_OFFSET(struct mesh_affinity_key, service_id, 16);
ASSERT_OFFSET(struct mesh_affinity_key, client_kind, 20);

struct mesh_affinity_value {
	/* Clock of now_ns(), at the last connection. */
	__u64 used_ns;
	__u32 backend_id;
	__u32 pad;
};
ASSERT_SIZE(struct mesh_affinity_value, 16);
ASSERT_OFFSET(struct mesh_affinity_value, backend_id, 8);

/*
 * mesh_affinity_members: (frontend, backend) -> MEMBER_* (__u32). Which remembered backends still count: active ones of
 * frontends that remember (affinity, or UDP), and draining ones of all frontends.
 */
#define MEMBER_ACTIVE 1
/* Keeps the flows that it has; a new flow of an old client goes elsewhere. */
#define MEMBER_DRAINING 2

struct mesh_member_key {
	__u32 service_id;
	__u32 backend_id;
};
ASSERT_SIZE(struct mesh_member_key, 8);
ASSERT_OFFSET(struct mesh_member_key, backend_id, 4);

/* mesh_maglev: a frontend's Maglev table in blocks, so that a changed backend rewrites only the blocks that change. */
#define MAGLEV_BLOCK 64

struct mesh_maglev_key {
	__u32 service_id;
	__u32 block;
};
ASSERT_SIZE(struct mesh_maglev_key, 8);
ASSERT_OFFSET(struct mesh_maglev_key, block, 4);

struct mesh_maglev_block {
	__u32 backend_ids[MAGLEV_BLOCK];
};
ASSERT_SIZE(struct mesh_maglev_block, 256);

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
	__u8 protocol;
	__u8 pad;
};
ASSERT_SIZE(struct mesh_translation, 20);
ASSERT_OFFSET(struct mesh_translation, port, 16);
ASSERT_OFFSET(struct mesh_translation, protocol, 18);

/* Holds while the backend is a member of the frontend, draining or not. */
struct mesh_choice {
	__u32 service_id;
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

/* An answer was seen. */
#define CT_REPLIED 1
#define CT_FIN_FORWARD 2
#define CT_FIN_REPLY 4
#define CT_RESET 8
/* TCP: the answer was answered, the handshake is over. */
#define CT_ESTABLISHED 16
/* Ingress only: the flow came through the tunnel, and its answers go back to tunnel_endpoint where no row says better. */
#define CT_VIA_OVERLAY 32
/* mesh_nat made this flow of another one, and knows what its answers become. */
#define CT_TRANSLATED 64

struct mesh_ct_value {
	/* Clock of now_ns(). First, as in every map that the garbage collector cleans. */
	__u64 expires_ns;
	/* Identity of the other side when the flow's own direction was last seen. */
	__u32 identity;
	__u8 flags;
	/* Of the flow's own direction; 0 for other protocols than ICMP and ICMPv6. */
	__u8 icmp_type;
	/* mesh_config's policy_revision when the flow was last judged. */
	__u16 revision;
	/* Underlay address of the node that the flow's last packet came from; counts with CT_VIA_OVERLAY. */
	struct mesh_address tunnel_endpoint;
};
ASSERT_SIZE(struct mesh_ct_value, 32);
ASSERT_OFFSET(struct mesh_ct_value, identity, 8);
ASSERT_OFFSET(struct mesh_ct_value, flags, 12);
ASSERT_OFFSET(struct mesh_ct_value, icmp_type, 13);
ASSERT_OFFSET(struct mesh_ct_value, revision, 14);
ASSERT_OFFSET(struct mesh_ct_value, tunnel_endpoint, 16);

/*
 * mesh_nat: per-packet translation of services. Key: a packet as it comes; value: what it becomes. Each flow has two
 * entries, the reverse one made of the forward one by exchanging both ends.
 */
struct mesh_nat_key {
	struct mesh_address source;
	struct mesh_address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 pad[3];
};
ASSERT_SIZE(struct mesh_nat_key, 40);
ASSERT_OFFSET(struct mesh_nat_key, destination, 16);
ASSERT_OFFSET(struct mesh_nat_key, source_port, 32);
ASSERT_OFFSET(struct mesh_nat_key, destination_port, 34);
ASSERT_OFFSET(struct mesh_nat_key, protocol, 36);

/* From the backend to the client; without it, from the client to the backend. */
#define NAT_REVERSE 1
/* The client is outside of the node; without it, an endpoint of the node. */
#define NAT_OUTSIDE 2

struct mesh_nat_value {
	/* Clock of mesh_ct's. */
	__u64 expires_ns;
	struct mesh_address source;
	struct mesh_address destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 service_id;
	__u32 backend_id;
	/* NAT_*. */
	__u8 kind;
	/* CT_*, the same in both entries. */
	__u8 flags;
	__u8 pad[2];
};
ASSERT_SIZE(struct mesh_nat_value, 56);
ASSERT_OFFSET(struct mesh_nat_value, source, 8);
ASSERT_OFFSET(struct mesh_nat_value, destination, 24);
ASSERT_OFFSET(struct mesh_nat_value, source_port, 40);
ASSERT_OFFSET(struct mesh_nat_value, destination_port, 42);
ASSERT_OFFSET(struct mesh_nat_value, service_id, 44);
ASSERT_OFFSET(struct mesh_nat_value, backend_id, 48);
ASSERT_OFFSET(struct mesh_nat_value, kind, 52);
ASSERT_OFFSET(struct mesh_nat_value, flags, 53);

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
#define OVERLAY_SOURCE_OFF 0
#define OVERLAY_SOURCE_CLUSTER 1
#define OVERLAY_SOURCE_STRICT 2

/* Frontends may be called from outside the node: NodePort, LoadBalancer, externalIPs. */
#define CONFIG_EXTERNAL_SERVICES 1
/* Packets to other nodes' endpoints leave by the node's own routes. What comes through the tunnel is answered there. */
#define CONFIG_NATIVE_ROUTING 2
/* ENDPOINT_AUDIT for every endpoint of the node. */
#define CONFIG_POLICY_AUDIT 4
/* The node itself is judged by its endpoints' policy as anybody else is; without it, it always reaches them. */
#define CONFIG_LOCALHOST_JUDGED 8
/* The host has a row among the endpoints: what its programs send to the mesh, and get from it, is judged. */
#define CONFIG_HOST_JUDGED 16
/* The host is no node: it has an identity of its own, and is called through the tunnel as a pod is. */
#define CONFIG_MACHINE 32
/* All that the host sends and gets by its own devices is judged, whoever is at the other end; mesh_firewall says how long. */
#define CONFIG_FIREWALL 64

struct mesh_config {
	__u32 layout_version;
	__u32 tunnel_ifindex;
	/* Own cluster. */
	__u16 cluster_id;
	/* How far an identity is shifted right to get its cluster: 16 in a mesh of 255, 15 in one of 511. */
	__u8 cluster_shift;
	/* OVERLAY_SOURCE_*. */
	__u8 overlay_source_check;
	/* Largest IP packet that fits into the tunnel. */
	__u32 tunnel_mtu;
	/* TRACE_*: which forwarded packets and translations are told as events. */
	__u8 trace_level;
	/* CONFIG_*. */
	__u8 flags;
	/* Ports of the node that source translation may use, both included. */
	__be16 nat_port_first;
	__be16 nat_port_last;
	/*
	 * Rises after every change of endpoints' policy that may deny what was allowed. Beyond 65535 it begins anew: a flow
	 * would have to be silent for exactly so many changes to be mistaken, and then only until the next one.
	 */
	__u16 policy_revision;
	/* Own underlay addresses; zero where the node has none of that family. */
	struct mesh_address node4;
	struct mesh_address node6;
};
ASSERT_SIZE(struct mesh_config, 56);
ASSERT_OFFSET(struct mesh_config, tunnel_ifindex, 4);
ASSERT_OFFSET(struct mesh_config, cluster_id, 8);
ASSERT_OFFSET(struct mesh_config, cluster_shift, 10);
ASSERT_OFFSET(struct mesh_config, overlay_source_check, 11);
ASSERT_OFFSET(struct mesh_config, tunnel_mtu, 12);
ASSERT_OFFSET(struct mesh_config, trace_level, 16);
ASSERT_OFFSET(struct mesh_config, flags, 17);
ASSERT_OFFSET(struct mesh_config, nat_port_first, 18);
ASSERT_OFFSET(struct mesh_config, nat_port_last, 20);
ASSERT_OFFSET(struct mesh_config, policy_revision, 22);
ASSERT_OFFSET(struct mesh_config, node4, 24);
ASSERT_OFFSET(struct mesh_config, node6, 40);

/* mesh_metrics: per CPU, index reason * 2 + direction. */
struct mesh_counter {
	__u64 packets;
	__u64 bytes;
};
ASSERT_SIZE(struct mesh_counter, 16);
ASSERT_OFFSET(struct mesh_counter, bytes, 8);

#include "wire_events.h"
#include "wire_firewall.h"
#include "wire_reasons.h"

#define IDENTITY_HOST 1
#define IDENTITY_WORLD 2
#define IDENTITY_REMOTE_NODE 6
#define IDENTITY_KUBE_APISERVER 7
#define IDENTITY_WORLD4 9
#define IDENTITY_WORLD6 10
/* Identities below are reserved or well known, and name no cluster. */
#define IDENTITY_FIRST_ALLOCATED 256
/* Identities that mean something on this node only: of prefixes outside of the mesh, and of nodes by their labels. */
#define IDENTITY_FIRST_OF_PREFIXES (1 << 24)
#define IDENTITY_FIRST_OF_NODES (2 << 24)

#endif
