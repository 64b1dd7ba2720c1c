/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Connection tracking for one purpose: what answers an allowed flow passes. Packets of the flow's own direction are
 * judged by policy each time, so that taking an allow away ends the connections that it had let in.
 */
#ifndef MESH_CONNTRACK_H
#define MESH_CONNTRACK_H

#include "common.h"
#include "flow.h"

#define SECOND_NS 1000000000ULL
/* A flow nobody has answered, and every flow without connections. */
#define CT_LIFETIME_DEFAULT (60 * SECOND_NS)
/* An answered TCP connection may be idle this long. */
#define CT_LIFETIME_TCP (21600 * SECOND_NS)
/* Both sides have closed, or one has reset. */
#define CT_LIFETIME_CLOSED (10 * SECOND_NS)
/* Entries are written at most this often while nothing but their age changes. */
#define CT_REFRESH (1 * SECOND_NS)

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct mesh_ct_key);
	__type(value, struct mesh_ct_value);
} mesh_ct SEC(".maps");

static __always_inline void ct_forward_key(struct mesh_ct_key *key, const struct flow *flow, __u8 direction)
{
	key->source = flow->source;
	key->destination = flow->destination;
	key->source_port = flow->source_port;
	key->destination_port = flow->destination_port;
	key->protocol = flow->protocol;
	key->direction = direction;
	key->pad[0] = 0;
	key->pad[1] = 0;
}

static __always_inline void ct_reverse_key(struct mesh_ct_key *key, const struct flow *flow, __u8 direction)
{
	key->source = flow->destination;
	key->destination = flow->source;
	key->source_port = flow->destination_port;
	key->destination_port = flow->source_port;
	key->protocol = flow->protocol;
	key->direction = direction;
	key->pad[0] = 0;
	key->pad[1] = 0;
}

static __always_inline struct mesh_ct_value *ct_lookup(const struct mesh_ct_key *key, __u64 now)
{
	struct mesh_ct_value *value = bpf_map_lookup_elem(&mesh_ct, key);

	return value && value->expires_ns > now ? value : NULL;
}

static __always_inline __u64 ct_lifetime(__u8 protocol, __u8 flags)
{
	if (protocol != IPPROTO_TCP)
		return CT_LIFETIME_DEFAULT;
	if ((flags & CT_RESET) || (flags & (CT_FIN_FORWARD | CT_FIN_REPLY)) == (CT_FIN_FORWARD | CT_FIN_REPLY))
		return CT_LIFETIME_CLOSED;
	return flags & CT_REPLIED ? CT_LIFETIME_TCP : CT_LIFETIME_DEFAULT;
}

static __always_inline void ct_refresh(struct mesh_ct_value *value, __u8 protocol, __u8 flags, __u64 now)
{
	__u64 expires_ns = now + ct_lifetime(protocol, flags);

	if (flags != value->flags) {
		value->flags = flags;
		value->expires_ns = expires_ns;
	} else if (expires_ns > value->expires_ns + CT_REFRESH) {
		value->expires_ns = expires_ns;
	}
}

/* Opposite entry of a packet's direction: what comes in answers what went out. */
static __always_inline __u8 opposite(__u8 direction)
{
	return direction == DIRECTION_INGRESS ? DIRECTION_EGRESS : DIRECTION_INGRESS;
}

/* True for a packet that answers a flow of the opposite direction. */
static __always_inline bool ct_is_reply(const struct flow *flow, __u8 direction)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct mesh_ct_value *value;
	struct mesh_ct_key key;
	__u8 flags;

	ct_reverse_key(&key, flow, opposite(direction));
	value = ct_lookup(&key, now);
	if (!value)
		return false;
	flags = value->flags | CT_REPLIED;
	if (flow->tcp_flags & TCP_FIN)
		flags |= CT_FIN_REPLY;
	if (flow->tcp_flags & TCP_RST)
		flags |= CT_RESET;
	ct_refresh(value, flow->protocol, flags, now);
	return true;
}

/* True for an ICMP error about a packet of a tracked flow, whichever of its two directions that packet had. */
static __always_inline bool ct_is_related(struct __sk_buff *ctx, const struct flow *flow, __u8 direction)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct flow inner = {};
	struct mesh_ct_key key;

	if (parse_inner_flow(ctx, flow, &inner))
		return false;
	/* The receiver of the error must be the sender of what it is about. */
	if (!same_address(&inner.source, &flow->destination))
		return false;
	ct_forward_key(&key, &inner, opposite(direction));
	if (ct_lookup(&key, now))
		return true;
	ct_reverse_key(&key, &inner, direction);
	return ct_lookup(&key, now) != NULL;
}

/* Remembers an allowed flow. A TCP entry is made by an opening SYN only: a later packet must not turn a flow around. */
static __always_inline void ct_track(const struct flow *flow, __u8 direction, __u32 identity)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct mesh_ct_value *value;
	struct mesh_ct_key key;
	bool opening = false;

	if (flow->kind != FLOW_PLAIN)
		return;
	if (flow->protocol == IPPROTO_TCP)
		opening = (flow->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
	ct_forward_key(&key, flow, direction);
	value = ct_lookup(&key, now);
	if (value && !(opening && (value->flags & (CT_FIN_FORWARD | CT_FIN_REPLY | CT_RESET)))) {
		__u8 flags = value->flags;

		if (flow->tcp_flags & TCP_FIN)
			flags |= CT_FIN_FORWARD;
		if (flow->tcp_flags & TCP_RST)
			flags |= CT_RESET;
		value->identity = identity;
		ct_refresh(value, flow->protocol, flags, now);
		return;
	}
	if (flow->protocol != IPPROTO_TCP || opening) {
		struct mesh_ct_value fresh = {
			.expires_ns = now + CT_LIFETIME_DEFAULT,
			.identity = identity,
		};

		bpf_map_update_elem(&mesh_ct, &key, &fresh, BPF_ANY);
	}
}

#endif
