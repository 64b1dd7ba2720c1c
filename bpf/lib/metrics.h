/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
#ifndef MESH_METRICS_H
#define MESH_METRICS_H

#include "common.h"
#include "events.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MESH_REASONS * 2);
	__type(key, __u32);
	__type(value, struct mesh_counter);
} mesh_metrics SEC(".maps");

static __always_inline void count(__u32 reason, __u32 direction, __u64 bytes)
{
	__u32 index = reason * 2 + direction;
	struct mesh_counter *counter = bpf_map_lookup_elem(&mesh_metrics, &index);

	if (!counter)
		return;
	counter->packets += 1;
	counter->bytes += bytes;
}

/*
 * The only way to drop a packet: under a reason of its own, counted and told. What is not known is 0: the identities of
 * both sides, and the endpoint of this node that the packet comes from (egress) or goes to (ingress).
 */
static __always_inline int drop_flow(struct __sk_buff *ctx, __u32 reason, __u32 direction, __u32 source_identity,
				     __u32 destination_identity, __u16 endpoint_id)
{
	count(reason, direction, ctx->len);
	emit_packet(ctx, event_what(EVENT_DROP, reason, direction, FLOW_STATE_UNKNOWN, endpoint_id),
		    event_identities(source_identity, destination_identity));
	return TC_ACT_SHOT;
}

/* The same where nothing is known yet of who sends to whom. */
static __always_inline int drop(struct __sk_buff *ctx, __u32 reason, __u32 direction)
{
	return drop_flow(ctx, reason, direction, 0, 0, 0);
}

#endif
