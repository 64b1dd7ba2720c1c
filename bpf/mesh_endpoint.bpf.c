// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* Both directions of the host side of an endpoint's veth. */
#include "lib/common.h"
#include "lib/config.h"
#include "lib/deliver.h"
#include "lib/endpoints.h"
#include "lib/flow.h"
#include "lib/host.h"
#include "lib/ipcache.h"
#include "lib/metrics.h"
#include "lib/nat.h"
#include "lib/policy.h"
#include "lib/refuse.h"
#include "lib/trace.h"

/*
 * Source of an endpoint that got itself as backend: it would take an answer from its own address for one of its own. IPv4
 * as in Cilium; IPv6 from the prefix that is never routed (RFC 9780).
 */
#define NAT_LOOPBACK4 0xa9fe2a01
#define NAT_LOOPBACK6 0x01000000, 0x00000001, 0, 1

static __always_inline void nat_loopback(struct mesh_address *address)
{
	const __u32 loopback6[] = { NAT_LOOPBACK6 };

	if (is_mapped4(address)) {
		map_address4(address, bpf_htonl(NAT_LOOPBACK4));
		return;
	}
#pragma unroll
	for (int i = 0; i < 4; i++)
		address->words[i] = bpf_htonl(loopback6[i]);
}

/*
 * Fills the scratch's translation for what an endpoint sends to a frontend, and for what a backend answers; leaves it
 * zero for anything else. Returns 0 or the reason to drop.
 */
__noinline int nat_from_endpoint(struct __sk_buff *ctx)
{
	struct scratch *scratch = lookup_scratch();
	struct mesh_nat_value *found, *to;
	const struct flow *flow;
	__u64 now = now_ns();
	int reason;

	if (!scratch)
		return DROP_INVALID_PACKET;
	flow = &scratch->flow;
	to = &scratch->translation;
	__builtin_memset(to, 0, sizeof(*to));
	found = nat_lookup(ctx, scratch, now);
	/* Called from outside of the node: not from here. */
	if (found && (found->kind & (NAT_REVERSE | NAT_OUTSIDE)) == NAT_OUTSIDE)
		return 0;
	if (found && (found->kind & NAT_REVERSE || nat_holds(flow, found))) {
		nat_use(scratch, found, now);
		return 0;
	}
	if (flow->kind != FLOW_PLAIN || !has_ports(flow->protocol))
		return 0;
	reason = nat_select(flow, SERVICE_SCOPE_INTERNAL, to, now);
	if (reason)
		return reason;
	if (is_translated(to)) {
		if (same_address(&to->destination, &to->source))
			nat_loopback(&to->source);
		return nat_remember(scratch, true, now);
	}
	/* The service is gone, and with it whoever could say that the backend is. */
	if (found && flow->protocol == IPPROTO_UDP) {
		nat_use(scratch, found, now);
	}
	return 0;
}

/*
 * An answer to an endpoint of this node; or to a pod elsewhere that called from outside, and gets its answer there and not
 * through the tunnel. Others have been looked for before. Returns as nat_answer().
 */
static __always_inline int answer_known(struct __sk_buff *ctx, const struct mesh_endpoint *destination,
					const struct mesh_ipcache_value *remote)
{
	if (destination)
		return nat_answer(ctx, NAT_REVERSE, ANSWER_HERE);
	if (remote && (remote->flags & IPCACHE_HAS_TUNNEL))
		return nat_answer(ctx, NAT_REVERSE | NAT_OUTSIDE, ANSWER_ROUTED);
	return 0;
}

/* Ingress of the host side: what the endpoint sends. */
SEC("tc")
int mesh_from_endpoint(struct __sk_buff *ctx)
{
	const struct mesh_endpoint *source, *destination;
	const struct mesh_ipcache_value *remote = NULL;
	struct scratch *scratch = lookup_scratch();
	const struct mesh_nat_value *translation;
	const struct mesh_config *config;
	const struct mesh_address *node;
	bool is_translation = false;
	bool is_answer = false;
	struct flow *flow;
	__u32 identity;
	int reason;

	/* ARP ends at the host. */
	if (ctx->protocol == bpf_htons(ETH_P_ARP))
		return TC_ACT_UNSPEC;
	reason = parse_packet(ctx);
	if (!scratch || reason)
		return drop(ctx, reason, DIRECTION_EGRESS);
	flow = &scratch->flow;
	translation = &scratch->translation;
	if (flow->kind == FLOW_LINK_LOCAL)
		return TC_ACT_UNSPEC;
	source = lookup_endpoint(&flow->source);
	if (!source || source->ifindex != ctx->ifindex)
		return drop(ctx, DROP_INVALID_SOURCE, DIRECTION_EGRESS);

	config = lookup_config();
	destination = lookup_endpoint(&flow->destination);
	if (!destination)
		remote = lookup_ipcache(&flow->destination);
	/* Endpoints are no frontends, nor is what a tunnel leads to; and who asked from there has translated himself. */
	if (!destination && (!remote || !(remote->flags & IPCACHE_HAS_TUNNEL))) {
		reason = nat_from_endpoint(ctx);
		if (reason == DROP_SERVICE_NO_BACKEND)
			return refuse(ctx, source->identity, source->endpoint_id, ANSWER_ENDPOINT);
		if (reason)
			return drop_flow(ctx, reason, DIRECTION_EGRESS, source->identity, 0, source->endpoint_id);
		is_translation = is_translated(translation);
	}
	if (is_translation) {
		is_answer = translation->kind & NAT_REVERSE;
		destination = lookup_endpoint(&translation->destination);
		remote = destination ? NULL : lookup_ipcache(&translation->destination);
		if (!is_answer) {
			/* The sender is told in its own words, and so before they are changed. */
			if (config && tunnel_to(config, remote, flow) && is_too_big(ctx, flow, config->tunnel_mtu))
				return answer_too_big(ctx, config->tunnel_mtu, source->identity, ANSWER_ENDPOINT);
			reason = rewrite_packet(ctx);
			if (reason)
				return drop_flow(ctx, reason, DIRECTION_EGRESS, source->identity, 0,
						 source->endpoint_id);
		}
	}
	if (destination)
		identity = destination->identity;
	else
		identity = remote ? remote->identity : IDENTITY_WORLD;
	reason = judge(ctx, source, DIRECTION_EGRESS, identity);
	if (reason)
		return drop_flow(ctx, reason, DIRECTION_EGRESS, source->identity, identity, source->endpoint_id);

	if (destination) {
		reason = judge(ctx, destination, DIRECTION_INGRESS, source->identity);
		if (reason)
			return drop_flow(ctx, reason, DIRECTION_INGRESS, source->identity, identity,
					 destination->endpoint_id);
	}
	if (is_answer)
		reason = rewrite_packet(ctx);
	else if (!is_translation && !flow->untranslated)
		reason = answer_known(ctx, destination, remote);
	if (reason == TC_ACT_REDIRECT)
		return reason;
	if (reason)
		return drop_flow(ctx, reason, DIRECTION_EGRESS, source->identity, identity, source->endpoint_id);
	if (destination) {
		trace(ctx, flow, COUNT_FORWARDED, DIRECTION_INGRESS, source->identity, identity,
		      destination->endpoint_id);
		return deliver(ctx, destination);
	}
	if (is_answer) {
		trace(ctx, flow, COUNT_FORWARDED, DIRECTION_EGRESS, source->identity, identity, source->endpoint_id);
		reason = send_by_route(ctx);
		if (reason == TC_ACT_REDIRECT)
			return reason;
		return drop_flow(ctx, reason, DIRECTION_EGRESS, source->identity, identity, source->endpoint_id);
	}
	if (!config && remote && (remote->flags & IPCACHE_HAS_TUNNEL))
		return drop_flow(ctx, DROP_NO_CONFIG, DIRECTION_EGRESS, source->identity, identity, source->endpoint_id);
	node = config ? tunnel_to(config, remote, flow) : NULL;
	if (config && node) {
		trace(ctx, flow, COUNT_FORWARDED_OVERLAY, DIRECTION_EGRESS, source->identity, identity,
		      source->endpoint_id);
		return encapsulate(ctx, config, flow, node, source->identity, ANSWER_ENDPOINT);
	}
	if (config && config->flags & CONFIG_HOST_JUDGED && enters_host(ctx)) {
		reason = judge_host(ctx, DIRECTION_INGRESS, source->identity);
		if (reason)
			return drop_host(ctx, reason, DIRECTION_INGRESS, source->identity);
	}
	trace(ctx, flow, COUNT_PASSED_TO_STACK, DIRECTION_EGRESS, source->identity, identity, source->endpoint_id);
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
	struct scratch *scratch = lookup_scratch();
	const struct mesh_endpoint *destination;
	struct flow *flow;
	__u32 identity;
	int reason;

	if (ctx->protocol == bpf_htons(ETH_P_ARP))
		return TC_ACT_UNSPEC;
	reason = parse_packet(ctx);
	if (!scratch || reason)
		return drop(ctx, reason, DIRECTION_INGRESS);
	flow = &scratch->flow;
	if (flow->kind == FLOW_LINK_LOCAL)
		return TC_ACT_UNSPEC;
	destination = lookup_endpoint(&flow->destination);
	identity = stack_identity(ctx, flow);
	if (!destination || destination->ifindex != ctx->ifindex)
		return drop_flow(ctx, DROP_NO_ENDPOINT, DIRECTION_INGRESS, identity, 0, 0);
	if (!ctx->ingress_ifindex && has_config_flag(CONFIG_HOST_JUDGED)) {
		reason = judge_host(ctx, DIRECTION_EGRESS, destination->identity);
		if (reason)
			return drop_host(ctx, reason, DIRECTION_EGRESS, destination->identity);
	}
	reason = judge(ctx, destination, DIRECTION_INGRESS, identity);
	if (reason)
		return drop_flow(ctx, reason, DIRECTION_INGRESS, identity, destination->identity,
				 destination->endpoint_id);
	reason = nat_to_endpoint(ctx, flow);
	if (reason)
		return drop_flow(ctx, reason, DIRECTION_INGRESS, identity, destination->identity,
				 destination->endpoint_id);
	trace(ctx, flow, COUNT_FORWARDED, DIRECTION_INGRESS, identity, destination->identity, destination->endpoint_id);
	count(COUNT_FORWARDED, DIRECTION_INGRESS, ctx->len);
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "GPL";
