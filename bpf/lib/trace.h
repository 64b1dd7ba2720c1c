/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Packets that went on, told to whoever listens, as many of them as mesh_config.trace_level says. Off: a load, a branch. */
#ifndef MESH_TRACE_H
#define MESH_TRACE_H

#include "common.h"
#include "events.h"
#include "flow.h"

static __always_inline bool is_traced(const struct flow *flow, __u8 level)
{
	if (level >= TRACE_MAXIMUM || flow->state == FLOW_STATE_NEW)
		return true;
	if (flow->protocol == IPPROTO_TCP)
		return flow->tcp_flags & (TCP_SYN | TCP_RST | (level >= TRACE_MEDIUM ? TCP_FIN : 0));
	return level >= TRACE_MEDIUM && (flow->protocol == IPPROTO_ICMP || flow->protocol == IPPROTO_ICMPV6);
}

/* Tells of a packet that goes on as `reason` (COUNT_*); the rest as in drop_flow(). To be called before it goes. */
static __always_inline void trace(struct __sk_buff *ctx, const struct flow *flow, __u32 reason, __u32 direction,
				  __u32 source_identity, __u32 destination_identity, __u16 endpoint_id)
{
	__u8 level = trace_level();

	if (!level || !is_traced(flow, level))
		return;
	emit_packet(ctx, event_what(EVENT_TRACE, reason, direction, flow->state, endpoint_id),
		    event_identities(source_identity, destination_identity));
}

#endif
