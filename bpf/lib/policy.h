/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
#ifndef MESH_POLICY_H
#define MESH_POLICY_H

#include "common.h"
#include "conntrack.h"
#include "endpoints.h"
#include "flow.h"

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1000000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mesh_policy_key);
	__type(value, struct mesh_policy_value);
} mesh_policy SEC(".maps");

/*
 * Two rows may match: one of the identity, one of any identity. The one that says more about protocol and port decides;
 * of two that say as much, a deny. Returns 0 or the reason to drop.
 */
static __always_inline int policy_verdict(__u16 endpoint_id, __u8 direction, __u32 identity, __u8 protocol,
					  __be16 port)
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

static __always_inline bool is_enforced(const struct mesh_endpoint *endpoint, __u8 direction)
{
	__u16 flag = direction == DIRECTION_INGRESS ? ENDPOINT_INGRESS_ENFORCED : ENDPOINT_EGRESS_ENFORCED;

	return endpoint->flags & flag;
}

/*
 * May this packet enter (ingress) or leave (egress) the endpoint, the other side being `identity`? Returns 0, having
 * remembered the flow, or the reason to drop. The node itself always reaches its endpoints: probes come from there.
 * A function of its own, so that its stack is not its callers'.
 */
static __noinline int judge(struct __sk_buff *ctx, struct flow *flow, const struct mesh_endpoint *endpoint,
			    __u8 direction, __u32 identity)
{
	bool own_node = direction == DIRECTION_INGRESS && identity == IDENTITY_HOST;

	if (flow->kind == FLOW_ICMP_ERROR) {
		if (ct_is_related(ctx, flow, direction)) {
			flow->state = FLOW_STATE_RELATED;
			return 0;
		}
	} else if (ct_is_reply(flow, direction)) {
		flow->state = FLOW_STATE_REPLY;
		return 0;
	}
	if (!own_node && is_enforced(endpoint, direction)) {
		int reason = policy_verdict(endpoint->endpoint_id, direction, identity, flow->protocol,
					    flow->destination_port);

		if (reason)
			return reason;
	}
	flow->state = ct_track(flow, direction, identity) ? FLOW_STATE_NEW : FLOW_STATE_ESTABLISHED;
	return 0;
}

#endif
