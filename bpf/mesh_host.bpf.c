// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The node's own devices: calls from outside to NodePorts, load balancer addresses and externalIPs. A backend on this node
 * sees the client's own address; one elsewhere sees this node's, so that its answer comes back through here. What the host's
 * own programs have to do with others of the mesh is judged, where the host is an endpoint. Everything else is left alone.
 * And the tunnel device, as far as the host's own programs send through it.
 */
#include "lib/common.h"
#include "lib/config.h"
#include "lib/deliver.h"
#include "lib/endpoints.h"
#include "lib/firewall.h"
#include "lib/flow.h"
#include "lib/host.h"
#include "lib/ipcache.h"
#include "lib/metrics.h"
#include "lib/nat.h"
#include "lib/policy.h"
#include "lib/refuse.h"
#include "lib/trace.h"

/*
 * Fills the scratch's translation for what comes from outside for a frontend, and for what a backend answers that is
 * reached by route; leaves it zero for anything else. Returns 0 or the reason to drop.
 */
__noinline int nat_from_outside(struct __sk_buff *ctx)
{
	const struct mesh_config *config = lookup_config();
	struct scratch *scratch = lookup_scratch();
	struct mesh_nat_value *found, *to;
	const struct flow *flow;
	__u64 now = now_ns();
	bool is_local;
	int reason;

	if (!scratch || !config)
		return 0;
	flow = &scratch->flow;
	to = &scratch->translation;
	__builtin_memset(to, 0, sizeof(*to));
	found = nat_lookup(ctx, scratch, now);
	/* Answers to endpoints pass the stack, and are translated at the endpoint. */
	if (found && !(found->kind & NAT_OUTSIDE))
		return 0;
	if (found && (found->kind & NAT_REVERSE || nat_holds(flow, found))) {
		nat_use(scratch, found, now);
		return 0;
	}
	if (flow->kind != FLOW_PLAIN || !has_ports(flow->protocol))
		return 0;
	reason = nat_select(flow, SERVICE_SCOPE_EXTERNAL, to, now);
	if (reason)
		return reason;
	if (is_translated(to)) {
		to->kind = NAT_OUTSIDE;
		is_local = lookup_endpoint(&to->destination) || is_this_node(config, &to->destination);
		if (!is_local) {
			to->source = is_mapped4(&flow->source) ? config->node4 : config->node6;
			if (is_unspecified6(&to->source))
				return DROP_NAT_UNSUPPORTED;
		}
		return nat_remember(scratch, is_local, now);
	}
	if (found && flow->protocol == IPPROTO_UDP) {
		nat_use(scratch, found, now);
	}
	return 0;
}

static __always_inline int to_local(struct __sk_buff *ctx, struct flow *flow, const struct mesh_endpoint *destination)
{
	__u32 identity = identity_of(&flow->source);
	int reason;

	reason = rewrite_packet(ctx);
	if (!reason)
		reason = judge(ctx, destination, DIRECTION_INGRESS, identity);
	if (reason)
		return drop_flow(ctx, reason, DIRECTION_INGRESS, identity, destination->identity,
				 destination->endpoint_id);
	trace(ctx, flow, COUNT_FORWARDED, DIRECTION_INGRESS, identity, destination->identity, destination->endpoint_id);
	return deliver(ctx, destination);
}

static __always_inline int to_remote(struct __sk_buff *ctx, const struct flow *flow,
				     const struct mesh_address *destination, const struct mesh_config *config)
{
	const struct mesh_address *node = tunnel_to(config, lookup_ipcache(destination), flow);
	int reason;

	if (node && is_too_big(ctx, flow, config->tunnel_mtu))
		return answer_too_big(ctx, config->tunnel_mtu, IDENTITY_WORLD, ANSWER_LINK);
	reason = rewrite_packet(ctx);
	if (reason)
		return drop_flow(ctx, reason, DIRECTION_INGRESS, IDENTITY_WORLD, 0, 0);
	trace(ctx, flow, node ? COUNT_FORWARDED_OVERLAY : COUNT_FORWARDED, DIRECTION_EGRESS, IDENTITY_WORLD, 0, 0);
	/* Other clusters do not know our identities of addresses outside: to them the client is the world. */
	if (node)
		return encapsulate(ctx, config, flow, node, IDENTITY_WORLD, ANSWER_LINK);
	reason = send_by_route(ctx);
	return reason == TC_ACT_REDIRECT ? reason : drop_flow(ctx, reason, DIRECTION_INGRESS, IDENTITY_WORLD, 0, 0);
}

/* What the stack gets from outside the tunnel. Judged is what somebody of the mesh has sent to the host itself. */
static __always_inline int to_own_stack(struct __sk_buff *ctx, const struct mesh_config *config, struct flow *flow)
{
	__u32 identity;
	int reason;

	/* A firewall has judged it by now, as it came. */
	if ((config->flags & (CONFIG_HOST_JUDGED | CONFIG_FIREWALL)) != CONFIG_HOST_JUDGED)
		return TC_ACT_UNSPEC;
	identity = identity_of(&flow->source);
	if (!is_of_mesh(identity) || !enters_host(ctx))
		return TC_ACT_UNSPEC;
	reason = judge_host(ctx, DIRECTION_INGRESS, identity);
	if (reason)
		return drop_host(ctx, reason, DIRECTION_INGRESS, identity);
	trace_host(ctx, COUNT_PASSED_TO_STACK, DIRECTION_INGRESS, identity);
	return TC_ACT_UNSPEC;
}

/* Ingress: what comes from outside. */
SEC("tc")
int mesh_from_host(struct __sk_buff *ctx)
{
	const struct mesh_config *config = lookup_config();
	struct scratch *scratch = lookup_scratch();
	const struct mesh_nat_value *translation;
	const struct mesh_endpoint *destination;
	struct flow *flow;
	int reason;

	if (!config || !scratch)
		return TC_ACT_UNSPEC;
	if (config->flags & CONFIG_FIREWALL && pass_firewall_in(ctx) != TC_ACT_UNSPEC)
		return TC_ACT_SHOT;
	if (is_tunnel_frame(ctx))
		return TC_ACT_UNSPEC;
	reason = parse_packet(ctx);
	flow = &scratch->flow;
	if (reason)
		return refuse_unread(ctx, config, flow, reason, DIRECTION_INGRESS);
	translation = &scratch->translation;
	if (flow->kind == FLOW_LINK_LOCAL || is_of_tunnel(flow))
		return TC_ACT_UNSPEC;
	if (!(config->flags & CONFIG_EXTERNAL_SERVICES))
		return to_own_stack(ctx, config, flow);
	reason = nat_from_outside(ctx);
	if (reason == DROP_SERVICE_NO_BACKEND)
		return refuse(ctx, identity_of(&flow->source), 0, ANSWER_LINK);
	if (reason)
		return drop_flow(ctx, reason, DIRECTION_INGRESS, identity_of(&flow->source), 0, 0);
	if (!is_translated(translation))
		return to_own_stack(ctx, config, flow);
	if (translation->kind & NAT_REVERSE) {
		reason = rewrite_packet(ctx);
		if (!reason)
			reason = send_by_route(ctx);
		return reason == TC_ACT_REDIRECT ? reason : drop(ctx, reason, DIRECTION_INGRESS);
	}
	destination = lookup_endpoint(&translation->destination);
	if (destination)
		return to_local(ctx, flow, destination);
	/* A server of the node itself: the stack finds it, and what it answers is translated on the way out. */
	if (is_this_node(config, &translation->destination)) {
		reason = rewrite_packet(ctx);
		return reason ? drop(ctx, reason, DIRECTION_INGRESS) : to_own_stack(ctx, config, flow);
	}
	return to_remote(ctx, flow, &translation->destination, config);
}

/* Egress: what the host's own programs send without the tunnel, and its servers answer to calls from outside. */
SEC("tc")
int mesh_to_host(struct __sk_buff *ctx)
{
	const struct mesh_config *config = lookup_config();
	struct scratch *scratch = lookup_scratch();
	struct flow *flow;
	__u32 identity;
	int reason;

	if (!config || !scratch)
		return TC_ACT_UNSPEC;
	if (config->flags & CONFIG_FIREWALL && pass_firewall_out(ctx) != TC_ACT_UNSPEC)
		return TC_ACT_SHOT;
	if (is_tunnel_frame(ctx))
		return TC_ACT_UNSPEC;
	reason = parse_packet(ctx);
	flow = &scratch->flow;
	if (reason)
		return refuse_unread(ctx, config, flow, reason, DIRECTION_EGRESS);
	if (flow->kind == FLOW_LINK_LOCAL || is_of_tunnel(flow))
		return TC_ACT_UNSPEC;
	/* What the host only passes on is none of its own; and a firewall has judged it by now. */
	if ((config->flags & (CONFIG_HOST_JUDGED | CONFIG_FIREWALL)) == CONFIG_HOST_JUDGED && !ctx->ingress_ifindex) {
		identity = identity_of(&flow->destination);
		if (is_of_mesh(identity)) {
			reason = judge_host(ctx, DIRECTION_EGRESS, identity);
			if (reason)
				return drop_host(ctx, reason, DIRECTION_EGRESS, identity);
			trace_host(ctx, COUNT_FORWARDED, DIRECTION_EGRESS, identity);
		}
	}
	if (!(config->flags & CONFIG_EXTERNAL_SERVICES))
		return TC_ACT_UNSPEC;
	reason = nat_answer(ctx, NAT_REVERSE | NAT_OUTSIDE, ANSWER_HERE);
	return reason ? drop(ctx, reason, DIRECTION_EGRESS) : TC_ACT_UNSPEC;
}

/* Of asm-generic/errno-base.h: what bpf_skb_get_tunnel_key() returns for a packet that has none. */
#define EINVAL 22

/* One that another program has sent on its way already. */
static __always_inline bool has_tunnel(struct __sk_buff *ctx)
{
	/* Filled by the call; what is in it does not matter. */
	struct bpf_tunnel_key key;

	return skb_get_tunnel_key(ctx, &key, sizeof(key), 0) != -EINVAL;
}

/*
 * Egress of the tunnel device: what the node's routes lead there. Its MTU has been minded by the stack, as with any device.
 * What the node sends for itself goes as "some node", a machine's under its own identity; what it passes on under its own
 * address (calls from outside that kube-proxy has translated) as the world's. Nobody else's packets go this way: they have
 * not been judged as theirs.
 */
SEC("tc")
int mesh_to_overlay(struct __sk_buff *ctx)
{
	const struct mesh_ipcache_value *source, *remote;
	const struct mesh_endpoint *host = NULL;
	const struct mesh_config *config;
	const struct mesh_address *node;
	struct scratch *scratch;
	struct flow *flow;
	__u32 identity, to;
	int reason;

	if (has_tunnel(ctx))
		return TC_ACT_UNSPEC;
	config = lookup_config();
	scratch = lookup_scratch();
	if (!config || !scratch)
		return drop(ctx, DROP_NO_CONFIG, DIRECTION_EGRESS);
	reason = parse_packet(ctx);
	if (reason)
		return drop(ctx, reason, DIRECTION_EGRESS);
	flow = &scratch->flow;
	/* The stack's own chatter about the link, which the device does away with. */
	if (flow->kind == FLOW_LINK_LOCAL)
		return TC_ACT_UNSPEC;
	source = lookup_ipcache(&flow->source);
	if (!is_own_address(config, &flow->source, source))
		return drop(ctx, DROP_INVALID_SOURCE, DIRECTION_EGRESS);
	if (config->flags & CONFIG_HOST_JUDGED && !ctx->ingress_ifindex)
		host = lookup_host();
	identity = ctx->ingress_ifindex ? IDENTITY_WORLD : host_identity(host, source);
	remote = lookup_ipcache(&flow->destination);
	to = remote ? remote->identity : IDENTITY_WORLD;
	if (host)
		reason = judge_host(ctx, DIRECTION_EGRESS, to);
	else
		reason = track_host(ctx, DIRECTION_EGRESS, to);
	/* Also to somebody whom nobody has told of yet, but who has called through the tunnel. */
	node = remote && remote->flags & IPCACHE_HAS_TUNNEL ? &remote->tunnel_endpoint : &flow->node;
	if (!reason && is_unspecified6(node))
		reason = DROP_NO_TUNNEL_ENDPOINT;
	if (!reason && set_tunnel(ctx, node, identity))
		reason = DROP_TUNNEL_FAILED;
	if (reason)
		return drop_flow(ctx, reason, DIRECTION_EGRESS, identity, to, host ? HOST_ENDPOINT_ID : 0);
	trace(ctx, flow, COUNT_FORWARDED_OVERLAY, DIRECTION_EGRESS, identity, to, host ? HOST_ENDPOINT_ID : 0);
	count(COUNT_FORWARDED_OVERLAY, DIRECTION_EGRESS, ctx->len);
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "GPL";
