/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Translation of services packet by packet, for what no socket hook saw. A flow gets its backend with its first packet
 * and keeps it, whatever becomes of the service. Policy and connection tracking know the flow as the backend sees it: what
 * goes to the backend is rewritten before it is judged, what comes back is rewritten after.
 *
 * For other programs:
 *	nat_to_endpoint()	an answer to an endpoint, after judge() and before deliver()
 *	nat_overlay_ingress()	a packet from the tunnel whose destination is no endpoint
 */
#ifndef MESH_NAT_H
#define MESH_NAT_H

#include "common.h"
#include "config.h"
#include "conntrack.h"
#include "flow.h"
#include "kernel.h"
#include "metrics.h"
#include "rewrite.h"
#include "route.h"
#include "services.h"

/* Ports that are tried for a translated source. */
#define NAT_TRIES 24

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct mesh_nat_key);
	__type(value, struct mesh_nat_value);
} mesh_nat SEC(".maps");

/* What nat_select() has found is written in a value that is otherwise zero. */
static __always_inline bool is_translated(const struct mesh_nat_value *to)
{
	return to->expires_ns != 0;
}

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

static __always_inline void nat_key(struct mesh_nat_key *key, const struct flow *flow)
{
	key->source = flow->source;
	key->destination = flow->destination;
	key->source_port = flow->source_port;
	key->destination_port = flow->destination_port;
	key->protocol = flow->protocol;
	key->pad[0] = 0;
	key->pad[1] = 0;
	key->pad[2] = 0;
}

/* Key of the packets that travel against those of a flow. */
static __always_inline void nat_turned_key(struct mesh_nat_key *key, const struct flow *flow)
{
	key->source = flow->destination;
	key->destination = flow->source;
	key->source_port = flow->destination_port;
	key->destination_port = flow->source_port;
	key->protocol = flow->protocol;
	key->pad[0] = 0;
	key->pad[1] = 0;
	key->pad[2] = 0;
}

/* Key of the other entry of a flow: what comes back once `to` has been sent. */
static __always_inline void nat_other_key(struct mesh_nat_key *key, __u8 protocol, const struct mesh_nat_value *to)
{
	key->source = to->destination;
	key->destination = to->source;
	key->source_port = to->destination_port;
	key->destination_port = to->source_port;
	key->protocol = protocol;
	key->pad[0] = 0;
	key->pad[1] = 0;
	key->pad[2] = 0;
}

/* The other entry: what comes back becomes an answer to what was sent. */
static __always_inline void nat_other_value(struct mesh_nat_value *other, const struct flow *flow,
					    const struct mesh_nat_value *to)
{
	*other = *to;
	other->source = flow->destination;
	other->destination = flow->source;
	other->source_port = flow->destination_port;
	other->destination_port = flow->source_port;
	other->kind = to->kind ^ NAT_REVERSE;
}

/* Entry of a packet's flow; for an ICMP error, the entry of the packets that travel its way. */
static __always_inline struct mesh_nat_value *nat_lookup(struct __sk_buff *ctx, struct scratch *scratch, __u64 now)
{
	const struct flow *flow = &scratch->flow;
	struct mesh_nat_value *found;

	if (flow->kind == FLOW_ICMP_ERROR) {
		const struct flow *inner = parse_inner_flow(ctx, flow);

		/* The receiver of the error must be the sender of what it is about. */
		if (!inner || !same_address(&inner->source, &flow->destination))
			return NULL;
		nat_turned_key(&scratch->key, inner);
	} else {
		if (!has_ports(flow->protocol))
			return NULL;
		nat_key(&scratch->key, flow);
	}
	found = bpf_map_lookup_elem(&mesh_nat, &scratch->key);
	return found && found->expires_ns > now ? found : NULL;
}

/*
 * A packet of the flow takes its translation: both entries live on, and know of the flow's end. An evicted one is made
 * again.
 */
static __always_inline void nat_use(struct scratch *scratch, struct mesh_nat_value *value, __u64 now)
{
	const struct flow *flow = &scratch->flow;
	bool is_reverse = value->kind & NAT_REVERSE;
	__u8 flags = value->flags;
	struct mesh_nat_value *other;
	__u64 expires_ns;

	scratch->translation = *value;
	if (flow->kind != FLOW_PLAIN)
		return;
	if (is_reverse)
		flags |= CT_REPLIED;
	if (flow->protocol == IPPROTO_TCP && !is_reverse && !ct_is_opening(flow) && flags & CT_REPLIED)
		flags |= CT_ESTABLISHED;
	if (flow->protocol == IPPROTO_TCP && flow->tcp_flags & TCP_FIN)
		flags |= is_reverse ? CT_FIN_REPLY : CT_FIN_FORWARD;
	if (flow->protocol == IPPROTO_TCP && flow->tcp_flags & TCP_RST)
		flags |= CT_RESET;
	expires_ns = now + ct_lifetime(flow->protocol, flags);
	if (flags == value->flags && expires_ns <= value->expires_ns + CT_REFRESH)
		return;
	value->flags = flags;
	value->expires_ns = expires_ns;
	nat_other_key(&scratch->key, flow->protocol, value);
	other = bpf_map_lookup_elem(&mesh_nat, &scratch->key);
	if (other) {
		other->flags = flags;
		other->expires_ns = expires_ns;
	} else {
		nat_other_value(&scratch->other, flow, value);
		bpf_map_update_elem(&mesh_nat, &scratch->key, &scratch->other, BPF_NOEXIST);
	}
}

/* Takes the tuple of the answers for this flow; false: another flow has it. */
static __always_inline bool nat_claim(struct scratch *scratch, __u64 now)
{
	const struct mesh_nat_value *to = &scratch->translation;
	const struct flow *flow = &scratch->flow;
	const struct mesh_nat_value *found;

	nat_other_key(&scratch->key, flow->protocol, to);
	nat_other_value(&scratch->other, flow, to);
	found = bpf_map_lookup_elem(&mesh_nat, &scratch->key);
	if (!found)
		return !bpf_map_update_elem(&mesh_nat, &scratch->key, &scratch->other, BPF_NOEXIST);
	if (found->expires_ns > now &&
	    !(found->destination_port == flow->source_port && found->source_port == flow->destination_port &&
	      same_address(&found->destination, &flow->source) && same_address(&found->source, &flow->destination)))
		return false;
	return !bpf_map_update_elem(&mesh_nat, &scratch->key, &scratch->other, BPF_ANY);
}

/* A connection of the endpoint straight to the backend, from the same port: its answers would look like ours. */
static __always_inline bool nat_collides(const struct flow *flow, const struct mesh_nat_value *to, __u64 now)
{
	struct mesh_ct_key key = {
		.source = to->source,
		.destination = to->destination,
		.source_port = to->source_port,
		.destination_port = to->destination_port,
		.protocol = flow->protocol,
		.direction = DIRECTION_EGRESS,
	};

	return !(to->kind & NAT_OUTSIDE) && ct_is_opening(flow) && ct_lookup(&key, now);
}

static __always_inline void nat_random_port(struct mesh_nat_value *to, const struct mesh_config *config)
{
	__u32 first = bpf_ntohs(config->nat_port_first);
	__u32 count = bpf_ntohs(config->nat_port_last) - first + 1;

	to->source_port = bpf_htons((__u16)(first + (((__u64)bpf_get_prandom_u32() * count) >> 32)));
}

/*
 * Remembers a new flow in both directions. With `keeps_port` it keeps its source port unless that is taken. Returns 0 or
 * the reason to drop.
 */
static __always_inline int nat_remember(struct scratch *scratch, bool keeps_port, __u64 now)
{
	struct mesh_nat_value *to = &scratch->translation;
	const struct mesh_config *config = lookup_config();
	const struct flow *flow = &scratch->flow;
	bool claimed = false;

	if (!config)
		return DROP_NO_CONFIG;
	to->expires_ns = now + ct_lifetime(flow->protocol, 0);
	if (keeps_port || flow->protocol == IPPROTO_SCTP)
		claimed = !nat_collides(flow, to, now) && nat_claim(scratch, now);
	if (flow->protocol != IPPROTO_SCTP) {
		for (int i = 0; i < NAT_TRIES && !claimed; i++) {
			nat_random_port(to, config);
			claimed = nat_claim(scratch, now);
		}
	}
	if (!claimed)
		return DROP_NAT_EXHAUSTED;
	nat_key(&scratch->key, flow);
	bpf_map_update_elem(&mesh_nat, &scratch->key, to, BPF_ANY);
	count(COUNT_SERVICE_TRANSLATED, to->kind & NAT_OUTSIDE ? DIRECTION_INGRESS : DIRECTION_EGRESS, 0);
	return 0;
}

/*
 * A backend for a new flow, if its destination is a frontend in that scope: then `to` says what its packets become.
 * Returns 0 or the reason to drop.
 */
static __always_inline int nat_select(const struct flow *flow, __u8 scope, struct mesh_nat_value *to, __u64 now)
{
	struct mesh_affinity_key client = { .client = flow->source, .client_kind = CLIENT_ADDRESS };
	struct mesh_service_key key = {
		.address = flow->destination,
		.port = flow->destination_port,
		.protocol = flow->protocol,
		.scope = scope,
	};
	const struct mesh_service_value *service;
	const struct mesh_backend *backend;

	if (scope == SERVICE_SCOPE_EXTERNAL)
		service = lookup_external_service(&key);
	else
		service = lookup_service(&key);
	if (!service)
		return 0;
	to->service_id = service->service_id;
	backend = select_backend_id(&key, service, &client, hash_flow(&flow->source, flow->source_port, &key),
				    &to->backend_id);
	if (!backend)
		return DROP_SERVICE_NO_BACKEND;
	if (flow->protocol == IPPROTO_SCTP && backend->port != flow->destination_port)
		return DROP_NAT_UNSUPPORTED;
	if (is_mapped4(&backend->address) != is_mapped4(&flow->source))
		return DROP_NAT_UNSUPPORTED;
	to->source = flow->source;
	to->source_port = flow->source_port;
	to->destination = backend->address;
	to->destination_port = backend->port;
	to->expires_ns = now;
	return 0;
}

/*
 * Whether a known flow may go on to its backend: a connection always, a new one on old ports only while the backend is
 * there; datagrams while the frontend still has it.
 */
static __always_inline bool nat_holds(const struct flow *flow, const struct mesh_nat_value *value)
{
	const struct mesh_backend *backend;

	if (flow->protocol == IPPROTO_UDP)
		return lookup_member(value->service_id, value->backend_id);
	if (!ct_is_opening(flow))
		return true;
	if (value->flags & CT_CLOSED_FLAGS)
		return false;
	backend = lookup_backend(value->backend_id);
	return backend && backend->port == value->destination_port &&
	       same_address(&backend->address, &value->destination);
}

/* What becomes of an answer once it is translated. */
enum answer_end {
	/* The caller goes on with it. */
	ANSWER_HERE,
	/* It leaves by a route of the node. */
	ANSWER_ROUTED,
};

/*
 * Translates the packet of mesh_scratch if it is an answer of that kind (NAT_*). Returns 0, TC_ACT_REDIRECT when it is on
 * its way, or the reason to drop.
 */
__noinline int nat_answer(struct __sk_buff *ctx, __u32 kind, __u32 end)
{
	struct scratch *scratch = lookup_scratch();
	struct mesh_nat_value *found;
	__u64 now = now_ns();
	int reason;

	if (!scratch)
		return DROP_INVALID_PACKET;
	found = nat_lookup(ctx, scratch, now);
	if (!found || found->kind != kind)
		return 0;
	nat_use(scratch, found, now);
	reason = rewrite_packet(ctx);
	if (reason)
		return reason;
	return end == ANSWER_ROUTED ? send_by_route(ctx) : 0;
}

/*
 * An answer to an endpoint that had called a frontend becomes one of that frontend. `flow` is that of mesh_scratch. Costs
 * nothing where connection tracking has just said that it is none. Returns 0 or the reason to drop.
 */
static __always_inline int nat_to_endpoint(struct __sk_buff *ctx, const struct flow *flow)
{
	return flow->untranslated ? 0 : nat_answer(ctx, NAT_REVERSE, ANSWER_HERE);
}

/*
 * The packet of mesh_scratch, if it is an answer to a client outside, from a backend that got the request with an address
 * of this node as source. Returns 0 for any other packet, TC_ACT_REDIRECT when it is on its way, or the reason to drop.
 */
static __always_inline int nat_overlay_ingress(struct __sk_buff *ctx)
{
	return nat_answer(ctx, NAT_REVERSE | NAT_OUTSIDE, ANSWER_ROUTED);
}

#endif
