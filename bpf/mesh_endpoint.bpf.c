// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* Both directions of the host side of an endpoint's veth. */
#include "lib/common.h"
#include "lib/config.h"
#include "lib/deliver.h"
#include "lib/endpoints.h"
#include "lib/flow.h"
#include "lib/ipcache.h"
#include "lib/metrics.h"
#include "lib/policy.h"

/* Ingress of the host side: what the endpoint sends. */
SEC("tc")
int mesh_from_endpoint(struct __sk_buff *ctx)
{
	const struct mesh_endpoint *source, *destination;
	const struct mesh_ipcache_value *remote = NULL;
	const struct mesh_config *config;
	struct flow flow = {};
	__u32 identity;
	int reason;

	/* ARP ends at the host. */
	if (ctx->protocol == bpf_htons(ETH_P_ARP))
		return TC_ACT_UNSPEC;
	reason = parse_flow(ctx, &flow);
	if (reason)
		return drop(ctx, reason, DIRECTION_EGRESS);
	if (flow.kind == FLOW_LINK_LOCAL)
		return TC_ACT_UNSPEC;
	source = lookup_endpoint(&flow.source);
	if (!source || source->ifindex != ctx->ifindex)
		return drop(ctx, DROP_INVALID_SOURCE, DIRECTION_EGRESS);

	destination = lookup_endpoint(&flow.destination);
	if (destination) {
		identity = destination->identity;
	} else {
		remote = lookup_ipcache(&flow.destination);
		identity = remote ? remote->identity : IDENTITY_WORLD;
	}
	reason = judge(ctx, &flow, source, DIRECTION_EGRESS, identity);
	if (reason)
		return drop(ctx, reason, DIRECTION_EGRESS);

	if (destination) {
		reason = judge(ctx, &flow, destination, DIRECTION_INGRESS, source->identity);
		if (reason)
			return drop(ctx, reason, DIRECTION_INGRESS);
		return deliver(ctx, destination);
	}
	if (remote && (remote->flags & IPCACHE_HAS_TUNNEL)) {
		config = lookup_config();
		if (!config)
			return drop(ctx, DROP_NO_CONFIG, DIRECTION_EGRESS);
		return encapsulate(ctx, config->tunnel_ifindex, &remote->tunnel_endpoint, source->identity);
	}
	count(COUNT_PASSED_TO_STACK, DIRECTION_EGRESS, ctx->len);
	return TC_ACT_UNSPEC;
}

/* Who sends what the stack hands over. A packet that came in by no interface is the node's own. */
static __always_inline __u32 stack_identity(struct __sk_buff *ctx, const struct flow *flow)
{
	const struct mesh_ipcache_value *entry;

	if (!ctx->ingress_ifindex)
		return IDENTITY_HOST;
	entry = lookup_ipcache(&flow->source);
	return entry ? entry->identity : IDENTITY_WORLD;
}

/* Egress of the host side: what the node's stack sends to the endpoint. */
SEC("tc")
int mesh_to_endpoint(struct __sk_buff *ctx)
{
	const struct mesh_endpoint *destination;
	struct flow flow = {};
	int reason;

	if (ctx->protocol == bpf_htons(ETH_P_ARP))
		return TC_ACT_UNSPEC;
	reason = parse_flow(ctx, &flow);
	if (reason)
		return drop(ctx, reason, DIRECTION_INGRESS);
	if (flow.kind == FLOW_LINK_LOCAL)
		return TC_ACT_UNSPEC;
	destination = lookup_endpoint(&flow.destination);
	if (!destination || destination->ifindex != ctx->ifindex)
		return drop(ctx, DROP_NO_ENDPOINT, DIRECTION_INGRESS);
	reason = judge(ctx, &flow, destination, DIRECTION_INGRESS, stack_identity(ctx, &flow));
	if (reason)
		return drop(ctx, reason, DIRECTION_INGRESS);
	count(COUNT_FORWARDED, DIRECTION_INGRESS, ctx->len);
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "GPL";
