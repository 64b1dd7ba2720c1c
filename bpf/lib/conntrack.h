/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Connection tracking: what answers an allowed flow passes, and a flow that policy has let pass is not judged with each of
 * its packets. Both hold until policy changes (mesh_config's policy_revision); then the first packet of either direction is
 * judged anew. So taking an allow away ends the connections that it had let in, also those in which only the answering side
 * still speaks.
 */
#ifndef MESH_CONNTRACK_H
#define MESH_CONNTRACK_H

#include "common.h"
#include "flow.h"

#define SECOND_NS 1000000000ULL

/*
 * Seconds without a packet after which a flow is forgotten, as Cilium's bpf-ct-timeout-regular-* have them. The agent sets
 * them before it loads a program (agent/datapath/conntrack-timeouts.ts).
 */
struct ct_timeouts {
	/* By ct_tcp_state(). */
	__u32 tcp[3];
	/* UDP, ICMP and everything else. */
	__u32 any;
};

const volatile struct ct_timeouts ct_timeouts SEC(".rodata.conntrack") = {
	.tcp = { 60, 8000, 10 },
	.any = 60,
};

/* Entries are written at most this often while nothing but their age changes. */
#define CT_REFRESH (1 * SECOND_NS)

#define CT_CLOSED_FLAGS (CT_FIN_FORWARD | CT_FIN_REPLY | CT_RESET)

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

/*
 * 0: the handshake is not over; 1: it is; 2: closed by both sides, or reset. What one side has closed may live on for
 * long: the other still sends. By bits, since each branch here would be one more way for the verifier to go.
 */
static __always_inline __u32 ct_tcp_state(__u32 flags)
{
	__u32 closed = (flags / CT_RESET | (flags / CT_FIN_FORWARD & flags / CT_FIN_REPLY)) & 1;
	__u32 established = flags / CT_ESTABLISHED & 1;

	return (established & ~closed) | closed << 1;
}

/* Nanoseconds without a packet after which a flow in this state is forgotten. */
static __always_inline __u64 ct_lifetime(__u8 protocol, __u8 flags)
{
	__u32 state = ct_tcp_state(flags);

	/* The verifier must see the bound in the register that is used below. */
	barrier_var(state);
	if (protocol != IPPROTO_TCP || state > 2)
		return ct_timeouts.any * SECOND_NS;
	return ct_timeouts.tcp[state] * SECOND_NS;
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

static __always_inline bool ct_is_opening(const struct flow *flow)
{
	return flow->protocol == IPPROTO_TCP && (flow->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

/* Where the answer to a flow is to go that came through the tunnel. */
static __always_inline void ct_note_answer(const struct mesh_ct_value *value, struct flow *flow)
{
	if (value->flags & CT_VIA_OVERLAY)
		flow->node = value->tunnel_endpoint;
}

/*
 * The flow of the opposite direction that a packet answers, or NULL. An opening SYN answers only where both sides open at
 * once: else it is a connection of its own, with the ports of one that is or was there the other way round.
 */
static __always_inline struct mesh_ct_value *ct_find_answered(const struct flow *flow, __u8 direction, __u64 now)
{
	struct mesh_ct_value *value;
	struct mesh_ct_key key;

	ct_reverse_key(&key, flow, opposite(direction));
	value = ct_lookup(&key, now);
	if (value && ct_is_opening(flow) && (value->flags & (CT_REPLIED | CT_CLOSED_FLAGS)))
		return NULL;
	return value;
}

/* An answer to the flow of `value` passes. */
static __always_inline void ct_answer(struct mesh_ct_value *value, struct flow *flow, __u64 now)
{
	__u8 flags = value->flags | CT_REPLIED;

	if (flow->tcp_flags & TCP_FIN)
		flags |= CT_FIN_REPLY;
	if (flow->tcp_flags & TCP_RST)
		flags |= CT_RESET;
	ct_refresh(value, flow->protocol, flags, now);
	ct_note_answer(value, flow);
	flow->untranslated = !(flags & CT_TRANSLATED);
}

/* True for an ICMP error about a packet of a tracked flow, whichever of its two directions that packet had. */
static __always_inline bool ct_is_related(struct __sk_buff *ctx, struct flow *flow, __u8 direction)
{
	int reason = parse_inner_packet(ctx, flow->inner_offset);
	const struct scratch *scratch = lookup_scratch();
	const struct mesh_ct_value *value;
	const struct flow *inner;
	__u64 now = now_ns();
	struct mesh_ct_key key;

	if (reason || !scratch)
		return false;
	inner = &scratch->inner;
	/* The receiver of the error must be the sender of what it is about. */
	if (!same_address(&inner->source, &flow->destination))
		return false;
	ct_forward_key(&key, inner, opposite(direction));
	value = ct_lookup(&key, now);
	if (value) {
		ct_note_answer(value, flow);
		return true;
	}
	ct_reverse_key(&key, inner, direction);
	return ct_lookup(&key, now) != NULL;
}

/* What ct_track() has found. */
enum ct_found {
	/* A flow that the present policy has judged before. */
	CT_KNOWN,
	/* A flow that is judged for the first time since policy has changed. */
	CT_KNOWN_BEFORE,
	CT_NEW,
	/* Nothing that is remembered. */
	CT_UNTRACKED,
};

/* The flow that a packet is one of, in its own direction, or NULL. What opens a flow anew that is over is not one of it. */
static __always_inline struct mesh_ct_value *ct_find_own(const struct flow *flow, __u8 direction, __u64 now)
{
	struct mesh_ct_value *value;
	struct mesh_ct_key key;

	ct_forward_key(&key, flow, direction);
	value = ct_lookup(&key, now);
	if (value && ct_is_opening(flow) && (value->flags & CT_CLOSED_FLAGS))
		return NULL;
	return value;
}

/*
 * Whether nothing has changed that the verdict about a flow hangs on, since it last passed. What opens a connection is
 * judged each time.
 */
static __always_inline bool ct_is_settled(const struct mesh_ct_value *own, const struct flow *flow, __u32 identity,
					  __u16 revision)
{
	return own->revision == revision && own->identity == identity && own->icmp_type == flow->icmp_type &&
	       !ct_is_opening(flow);
}

/*
 * Remembers a flow that passes, judged under `revision` of the policy; `own` is what ct_find_own() has found. A TCP entry is
 * made by an opening SYN only: a later packet must not turn a flow around.
 */
static __always_inline enum ct_found ct_track(struct flow *flow, __u8 direction, __u32 identity, __u16 revision,
					      struct mesh_ct_value *own, __u64 now)
{
	bool via_overlay = direction == DIRECTION_INGRESS && !is_unspecified6(&flow->node);
	bool opening = ct_is_opening(flow);
	struct mesh_ct_key key;

	if (flow->kind != FLOW_PLAIN)
		return CT_UNTRACKED;
	if (own) {
		__u8 flags = via_overlay ? own->flags | CT_VIA_OVERLAY : own->flags & ~CT_VIA_OVERLAY;
		bool judged_before = own->revision == revision;

		if (flow->translated)
			flags |= CT_TRANSLATED;
		flow->untranslated = !(flags & CT_TRANSLATED);
		if (flow->tcp_flags & TCP_FIN)
			flags |= CT_FIN_FORWARD;
		if (flow->tcp_flags & TCP_RST)
			flags |= CT_RESET;
		if (flow->protocol == IPPROTO_TCP && !opening && (flags & CT_REPLIED))
			flags |= CT_ESTABLISHED;
		if (own->identity != identity)
			own->identity = identity;
		if (own->icmp_type != flow->icmp_type)
			own->icmp_type = flow->icmp_type;
		if (!judged_before)
			own->revision = revision;
		if (via_overlay && !same_address(&own->tunnel_endpoint, &flow->node))
			own->tunnel_endpoint = flow->node;
		ct_refresh(own, flow->protocol, flags, now);
		return judged_before ? CT_KNOWN : CT_KNOWN_BEFORE;
	}
	if (flow->protocol != IPPROTO_TCP || opening) {
		struct mesh_ct_value fresh = {
			.expires_ns = now + ct_lifetime(flow->protocol, 0),
			.identity = identity,
			.flags = (via_overlay ? CT_VIA_OVERLAY : 0) | (flow->translated ? CT_TRANSLATED : 0),
			.icmp_type = flow->icmp_type,
			.revision = revision,
		};

		flow->untranslated = !flow->translated;
		if (via_overlay)
			fresh.tunnel_endpoint = flow->node;
		ct_forward_key(&key, flow, direction);
		bpf_map_update_elem(&mesh_ct, &key, &fresh, BPF_ANY);
		return CT_NEW;
	}
	return CT_UNTRACKED;
}

#endif
