/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
#ifndef MESH_POLICY_H
#define MESH_POLICY_H

#include "common.h"
#include "config.h"
#include "conntrack.h"
#include "endpoints.h"
#include "flow.h"
#include "metrics.h"

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1000000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mesh_policy_key);
	__type(value, struct mesh_policy_value);
} mesh_policy SEC(".maps");

/*
 * Whether an identity is one of pods that the agent does not know: nobody can say then whom of it a rule denies. Asks with
 * `key`, whatever was in it: the stack has no room for another.
 */
static __always_inline bool is_stranger(__u32 identity, struct mesh_policy_key *key)
{
	if (identity < IDENTITY_FIRST_ALLOCATED || identity >= IDENTITY_FIRST_OF_PREFIXES)
		return false;
	key->prefixlen = POLICY_STATIC_BITS;
	key->identity = identity;
	key->endpoint_id = 0;
	key->direction = DIRECTION_INGRESS;
	return !bpf_map_lookup_elem(&mesh_policy, key);
}

/*
 * Two rows may match: one of the identity, one of any identity. The one that says more about protocol and port decides;
 * of two that say as much, a deny. A row for those whom the agent knows does not match others. `port` in network order; of
 * ICMP and ICMPv6, the type of the message. Returns 0 or the reason to drop.
 */
__noinline int policy_verdict(__u32 endpoint_id, __u32 direction, __u32 identity, __u32 protocol, __u32 port)
{
	struct mesh_policy_key key = {
		.prefixlen = POLICY_FULL_BITS,
		.identity = identity,
		.endpoint_id = endpoint_id,
		.direction = direction,
		.protocol = protocol,
		.port = port,
	};
	const struct mesh_policy_value *exact = bpf_map_lookup_elem(&mesh_policy, &key);
	const struct mesh_policy_value *any, *row;

	key.identity = 0;
	any = bpf_map_lookup_elem(&mesh_policy, &key);
	if (any && any->flags & POLICY_KNOWN_ONLY && is_stranger(identity, &key))
		any = NULL;
	if (exact && any) {
		if (exact->width != any->width)
			row = exact->width > any->width ? exact : any;
		else
			row = any->flags & POLICY_DENY ? any : exact;
	} else {
		row = exact ? exact : any;
	}
	if (!row)
		return DROP_POLICY_DENIED;
	return row->flags & POLICY_DENY ? DROP_POLICY_DENY_RULE : 0;
}

/*
 * Which state of the policy rows a verdict is given under. To be read before the rows: what the agent changes meanwhile
 * then counts as not seen.
 */
static __always_inline __u16 policy_revision(void)
{
	const struct mesh_config *config = lookup_config();

	return config ? config->policy_revision : 0;
}

static __always_inline bool has_config_flag(__u8 flag)
{
	const struct mesh_config *config = lookup_config();

	return config && config->flags & flag;
}

/* What policy needs to know of an endpoint. */
struct subject {
	__u32 identity;
	__u16 endpoint_id;
	__u16 flags;
};

/* Whether policy has a say about flows of that direction. The node itself reaches its endpoints: probes come from there. */
static __always_inline bool is_judged(const struct subject *subject, __u8 direction, __u32 identity)
{
	__u16 flag = direction == DIRECTION_INGRESS ? ENDPOINT_INGRESS_ENFORCED : ENDPOINT_EGRESS_ENFORCED;

	if (!(subject->flags & flag))
		return false;
	return direction != DIRECTION_INGRESS || identity != IDENTITY_HOST || has_config_flag(CONFIG_LOCALHOST_JUDGED);
}

static __always_inline bool is_audited(const struct subject *subject)
{
	return subject->flags & ENDPOINT_AUDIT || has_config_flag(CONFIG_POLICY_AUDIT);
}

/* A packet passes although `reason` speaks against it. `direction` is that of the packet, `identity` the other side's. */
static __always_inline void spare(struct __sk_buff *ctx, const struct subject *subject, __u8 direction, __u32 identity,
				  __u32 reason, __u8 state)
{
	bool enters = direction == DIRECTION_INGRESS;
	__u32 source = enters ? identity : subject->identity;
	__u32 destination = enters ? subject->identity : identity;

	emit_packet(ctx, event_what(EVENT_POLICY_AUDIT, reason, direction, state, subject->endpoint_id),
		    event_identities(source, destination));
}

/*
 * What an identity stands for. The other side of a flow may get another identity while the flow goes on, by a label that it
 * gets or a prefix that a policy names: it stays what it is.
 */
enum identity_kind {
	IDENTITY_KIND_POD,
	IDENTITY_KIND_NODE,
	IDENTITY_KIND_OUTSIDE,
	IDENTITY_KIND_OTHER,
};

static __always_inline enum identity_kind identity_kind(__u32 identity)
{
	if (identity >= IDENTITY_FIRST_OF_NODES)
		return IDENTITY_KIND_NODE;
	if (identity >= IDENTITY_FIRST_OF_PREFIXES)
		return IDENTITY_KIND_OUTSIDE;
	if (identity >= IDENTITY_FIRST_ALLOCATED)
		return IDENTITY_KIND_POD;
	switch (identity) {
	case IDENTITY_WORLD:
	case IDENTITY_WORLD4:
	case IDENTITY_WORLD6:
		return IDENTITY_KIND_OUTSIDE;
	case IDENTITY_HOST:
	case IDENTITY_REMOTE_NODE:
	case IDENTITY_KUBE_APISERVER:
		return IDENTITY_KIND_NODE;
	default:
		return IDENTITY_KIND_OTHER;
	}
}

/*
 * The first answer of a flow since policy has changed: may the flow still be? Its other side counts as its last packet had
 * it; and, since the mesh may have renamed it while it was silent, as it is called now. Returns 0 or the reason to drop.
 */
static __always_inline int judge_again(struct __sk_buff *ctx, const struct flow *flow, const struct subject *subject,
				       struct mesh_ct_value *value, __u8 direction, __u32 identity, __u16 revision)
{
	__u8 forward = opposite(direction);
	__be16 port = is_icmp(flow->protocol) ? bpf_htons(value->icmp_type) : flow->source_port;
	int reason = 0;

	if (is_judged(subject, forward, value->identity))
		reason = policy_verdict(subject->endpoint_id, forward, value->identity, flow->protocol, port);
	if (reason && identity != value->identity && identity_kind(identity) == identity_kind(value->identity) &&
	    !policy_verdict(subject->endpoint_id, forward, identity, flow->protocol, port)) {
		value->identity = identity;
		reason = 0;
	}
	if (reason && !is_audited(subject))
		return reason;
	value->revision = revision;
	if (reason) {
		count(COUNT_POLICY_AUDITED, direction, ctx->len);
		spare(ctx, subject, direction, identity, reason, FLOW_STATE_REPLY);
	}
	return 0;
}

static __always_inline int judge_answer(struct __sk_buff *ctx, struct flow *flow, const struct subject *subject,
					struct mesh_ct_value *value, __u8 direction, __u32 identity, __u16 revision,
					__u64 now)
{
	if (value->revision != revision) {
		int reason = judge_again(ctx, flow, subject, value, direction, identity, revision);

		if (reason)
			return reason;
	}
	ct_answer(value, flow, now);
	flow->state = FLOW_STATE_REPLY;
	return 0;
}

/*
 * Whether a packet is likelier to answer than to ask: who serves has the lower port, mostly. Decides what is looked for
 * first, nothing else.
 */
static __always_inline bool looks_like_answer(const struct flow *flow)
{
	return bpf_ntohs(flow->source_port) < bpf_ntohs(flow->destination_port);
}

/*
 * judge(), as a function that the verifier reads once, and not at each of its callers: all that it takes are numbers.
 * `what`: an endpoint's number, its flags above it, its identity above these.
 */
__noinline int judge_packet(struct __sk_buff *ctx, __u64 what, __u32 direction, __u32 identity)
{
	const struct subject subject = { .endpoint_id = what, .flags = what >> 16, .identity = what >> 32 };
	struct scratch *scratch = lookup_scratch();
	struct mesh_ct_value *answered, *own = NULL;
	__u16 revision = policy_revision();
	bool is_settled = false;
	__u64 now = now_ns();
	enum ct_found found;
	struct flow *flow;
	int reason = 0;

	if (!scratch)
		return DROP_INVALID_PACKET;
	flow = &scratch->flow;
	if (flow->kind == FLOW_ICMP_ERROR) {
		if (ct_is_related(ctx, flow, direction)) {
			flow->state = FLOW_STATE_RELATED;
			return 0;
		}
	} else {
		bool answers = looks_like_answer(flow);

		if (!answers) {
			own = ct_find_own(flow, direction, now);
			is_settled = own && ct_is_settled(own, flow, identity, revision);
		}
		if (!is_settled) {
			answered = ct_find_answered(flow, direction, now);
			if (answered)
				return judge_answer(ctx, flow, &subject, answered, direction, identity, revision,
						    now);
		}
		if (answers) {
			own = ct_find_own(flow, direction, now);
			is_settled = own && ct_is_settled(own, flow, identity, revision);
		}
	}
	/* What audit spares is not settled: each of its packets counts. */
	if (is_judged(&subject, direction, identity) && !(is_settled && !is_audited(&subject)))
		reason = policy_verdict(subject.endpoint_id, direction, identity, flow->protocol,
					is_icmp(flow->protocol) ? bpf_htons(flow->icmp_type) : flow->destination_port);
	if (reason && !is_audited(&subject))
		return reason;
	found = ct_track(flow, direction, identity, revision, own, now);
	flow->state = found == CT_NEW ? FLOW_STATE_NEW : FLOW_STATE_ESTABLISHED;
	if (reason) {
		count(COUNT_POLICY_AUDITED, direction, ctx->len);
		/* Once for a flow and state of the policy: a download would crowd out all others. */
		if (found != CT_KNOWN)
			spare(ctx, &subject, direction, identity, reason, flow->state);
	}
	return 0;
}

/*
 * May the packet of mesh_scratch enter (ingress) or leave (egress) the endpoint, the other side being `identity`? Returns 0,
 * having remembered the flow, or the reason to drop. A packet of a flow that has passed under the present policy costs one
 * lookup, whichever way it goes.
 */
static __always_inline int judge(struct __sk_buff *ctx, const struct mesh_endpoint *endpoint, __u8 direction,
				 __u32 identity)
{
	return judge_packet(ctx, endpoint->endpoint_id | (__u64)endpoint->flags << 16 | (__u64)endpoint->identity << 32,
			    direction, identity);
}

#endif
