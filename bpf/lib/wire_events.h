/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The part of wire.h that tells of single packets and calls; included there. */
#ifndef MESH_WIRE_EVENTS_H
#define MESH_WIRE_EVENTS_H

/*
 * mesh_events: what happened to packets and to sockets' calls, in the order of each CPU. All kinds begin with the same 11
 * bytes: time, kind, reason, direction.
 */
#define EVENT_DROP 1
#define EVENT_TRACE 2
#define EVENT_SERVICE 3
#define EVENT_POLICY_AUDIT 4
/* Kinds have buckets of their own in mesh_event_buckets: index kind - 1. */
#define EVENT_KINDS 4

/* Bytes of a packet that an event carries at most. */
#define EVENT_PACKET_SIZE 128

/* Forwarded packets that are traced: none; those that open or reset a flow; FIN and ICMP, too, and translations; all. */
#define TRACE_NONE 0
#define TRACE_LOW 1
#define TRACE_MEDIUM 2
#define TRACE_MAXIMUM 3

/* What connection tracking said of a packet. */
#define FLOW_STATE_UNKNOWN 0
#define FLOW_STATE_NEW 1
#define FLOW_STATE_ESTABLISHED 2
#define FLOW_STATE_REPLY 3
#define FLOW_STATE_RELATED 4

/* EVENT_DROP, EVENT_TRACE; EVENT_POLICY_AUDIT, whose reason is that of the drop which audit mode has spared. */
struct mesh_event {
	/* Clock of bpf_ktime_get_ns(). */
	__u64 timestamp_ns;
	/* EVENT_*. */
	__u8 kind;
	/* enum mesh_reason. */
	__u8 reason;
	__u8 direction;
	/* FLOW_STATE_*. */
	__u8 state;
	__u32 ifindex;
	/* 0 where it was not known yet. */
	__u32 source_identity;
	__u32 destination_identity;
	/* Of the whole packet, from the Ethernet header on. */
	__u32 length;
	/* Endpoint of this node that the packet comes from (egress) or goes to (ingress); 0: none. */
	__u16 endpoint_id;
	/* How many bytes of `packet` count; the others are zero. */
	__u16 captured;
	__u8 packet[EVENT_PACKET_SIZE];
};
ASSERT_SIZE(struct mesh_event, 160);
ASSERT_OFFSET(struct mesh_event, timestamp_ns, 0);
ASSERT_OFFSET(struct mesh_event, kind, 8);
ASSERT_OFFSET(struct mesh_event, reason, 9);
ASSERT_OFFSET(struct mesh_event, direction, 10);
ASSERT_OFFSET(struct mesh_event, state, 11);
ASSERT_OFFSET(struct mesh_event, ifindex, 12);
ASSERT_OFFSET(struct mesh_event, source_identity, 16);
ASSERT_OFFSET(struct mesh_event, destination_identity, 20);
ASSERT_OFFSET(struct mesh_event, length, 24);
ASSERT_OFFSET(struct mesh_event, endpoint_id, 28);
ASSERT_OFFSET(struct mesh_event, captured, 30);
ASSERT_OFFSET(struct mesh_event, packet, 32);

/* EVENT_SERVICE: a socket called a frontend. */
struct mesh_service_event {
	__u64 timestamp_ns;
	__u8 kind;
	/* COUNT_SERVICE_TRANSLATED, or why the call was refused. */
	__u8 reason;
	__u8 direction;
	__u8 protocol;
	__be16 frontend_port;
	/* backend, its port and cluster: zero where the call was refused. */
	__be16 backend_port;
	struct mesh_address frontend;
	struct mesh_address backend;
	/* Of the socket. */
	__u64 cookie;
	__u16 cluster_id;
	__u8 pad[6];
};
ASSERT_SIZE(struct mesh_service_event, 64);
ASSERT_OFFSET(struct mesh_service_event, timestamp_ns, 0);
ASSERT_OFFSET(struct mesh_service_event, kind, 8);
ASSERT_OFFSET(struct mesh_service_event, reason, 9);
ASSERT_OFFSET(struct mesh_service_event, direction, 10);
ASSERT_OFFSET(struct mesh_service_event, protocol, 11);
ASSERT_OFFSET(struct mesh_service_event, frontend_port, 12);
ASSERT_OFFSET(struct mesh_service_event, backend_port, 14);
ASSERT_OFFSET(struct mesh_service_event, frontend, 16);
ASSERT_OFFSET(struct mesh_service_event, backend, 32);
ASSERT_OFFSET(struct mesh_service_event, cookie, 48);
ASSERT_OFFSET(struct mesh_service_event, cluster_id, 56);
ASSERT_OFFSET(struct mesh_service_event, pad, 58);

/* mesh_event_control: one entry. How fast each CPU may write events of a kind, as distances in time. */
struct mesh_event_control {
	/* 0: nobody reads, nothing is written. */
	__u64 interval_ns;
	/* So much may be written at once, after a silence. */
	__u64 burst_ns;
};
ASSERT_SIZE(struct mesh_event_control, 16);
ASSERT_OFFSET(struct mesh_event_control, burst_ns, 8);

/* mesh_event_buckets: per CPU and kind. The two counts only grow. */
struct mesh_event_bucket {
	/* When the bucket will be full again, were nothing written any more. */
	__u64 full_ns;
	/* Events left out because there were too many. */
	__u64 suppressed;
	/* Events for which the ring had no room: its reader is too slow. */
	__u64 lost;
};
ASSERT_SIZE(struct mesh_event_bucket, 24);
ASSERT_OFFSET(struct mesh_event_bucket, suppressed, 8);
ASSERT_OFFSET(struct mesh_event_bucket, lost, 16);

#endif
