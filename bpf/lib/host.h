/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The host itself as a party of the mesh: the programs in its own network namespace, under its own addresses. Its route to
 * an endpoint elsewhere leads to the tunnel device (agent/datapath/host-routes.ts), and what answers comes through it. A
 * machine, and a node that policies select, is an endpoint of its own: judged is what it exchanges with others of the mesh,
 * through the tunnel or without. What has no part in the mesh is for the host's own firewall.
 */
#ifndef MESH_HOST_H
#define MESH_HOST_H

#include "common.h"
#include "config.h"
#include "conntrack.h"
#include "deliver.h"
#include "endpoints.h"
#include "flow.h"
#include "ipcache.h"
#include "policy.h"
#include "route.h"
#include "trace.h"

#define HOST_OPEN_PORTS 15

/* The agent sets these before it loads a program (agent/datapath/host-settings.ts). */
struct host_settings {
	/* UDP port of the tunnel. */
	__be16 tunnel_port;
	/* TCP ports by which a host stays a part of its mesh, whatever its policies say; 0: none. */
	__be16 open_ports[HOST_OPEN_PORTS];
};
ASSERT_SIZE(struct host_settings, 32);

const volatile struct host_settings host_settings SEC(".rodata.host") = {
	.tunnel_port = bpf_htons(8472),
};

static __always_inline bool is_this_node(const struct mesh_config *config, const struct mesh_address *address)
{
	return same_address(address, &config->node4) || same_address(address, &config->node6);
}

/*
 * An address of the host, `entry` being its row: one that it tunnels from, or another one that its cluster knows of. Those
 * of a machine have its identity, and there is nobody else behind it.
 */
static __always_inline bool is_own_address(const struct mesh_config *config, const struct mesh_address *address,
					   const struct mesh_ipcache_value *entry)
{
	if (is_this_node(config, address))
		return true;
	if (!entry || entry->identity == IDENTITY_HOST)
		return entry;
	return config->flags & CONFIG_MACHINE && !(entry->flags & IPCACHE_HAS_TUNNEL) &&
	       entry->cluster_id == config->cluster_id && entry->identity >= IDENTITY_FIRST_ALLOCATED &&
	       entry->identity < IDENTITY_FIRST_OF_PREFIXES;
}

/*
 * The row of the host, which stands under no address; NULL: it is no endpoint. Not inline: the key would cost each caller
 * room on the stack, of which calls in a row have 512 bytes together.
 */
static __noinline const struct mesh_endpoint *lookup_host(void)
{
	const struct mesh_address none = {};

	return lookup_endpoint(&none);
}

/*
 * What the host is to others: "some node", as Cilium has it. A machine that is no node has an identity of its own: its row
 * says which, and until there is one the row of its address.
 */
static __always_inline __u32 host_identity(const struct mesh_endpoint *host, const struct mesh_ipcache_value *entry)
{
	if (host && host->identity != IDENTITY_HOST)
		return host->identity;
	return entry && entry->identity >= IDENTITY_FIRST_ALLOCATED ? entry->identity : IDENTITY_REMOTE_NODE;
}

static __always_inline __u32 identity_of(const struct mesh_address *address)
{
	const struct mesh_ipcache_value *entry = lookup_ipcache(address);

	return entry ? entry->identity : IDENTITY_WORLD;
}

/* Whether an identity is one of the mesh, and not of what is outside of it. */
static __always_inline bool is_of_mesh(__u32 identity)
{
	return identity_kind(identity) != IDENTITY_KIND_OUTSIDE;
}

/*
 * A packet of the tunnel itself, seen before anything else is done: what is in it is judged where it goes in, and where it
 * comes out. Only the usual headers are looked at; is_of_tunnel() knows the others.
 */
static __always_inline bool is_tunnel_frame(const struct __sk_buff *ctx)
{
	const void *start = (void *)(long)ctx->data + ETH_HLEN;
	const void *end = (void *)(long)ctx->data_end;
	const __be16 *ports;

	if (ctx->protocol == bpf_htons(ETH_P_IP)) {
		const struct iphdr *header = start;

		if ((void *)(header + 1) > end || header->protocol != IPPROTO_UDP || header->ihl != 5 ||
		    header->frag_off & bpf_htons(IP_FRAGMENT_OFFSET))
			return false;
		ports = (void *)(header + 1);
	} else {
		const struct ipv6hdr *header = start;

		if (ctx->protocol != bpf_htons(ETH_P_IPV6) || (void *)(header + 1) > end ||
		    header->nexthdr != IPPROTO_UDP)
			return false;
		ports = (void *)(header + 1);
	}
	return (void *)(ports + 2) <= end && ports[1] == host_settings.tunnel_port;
}

static __always_inline bool is_of_tunnel(const struct flow *flow)
{
	return flow->protocol == IPPROTO_UDP && flow->destination_port == host_settings.tunnel_port;
}

/* `port` in network order. */
__noinline int is_open_port(__u32 port)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < HOST_OPEN_PORTS; i++) {
		if (port && host_settings.open_ports[i] == port)
			return 1;
	}
	return 0;
}

/* DHCP, of either family. */
static __always_inline bool is_lease_port(__be16 port)
{
	return port == bpf_htons(67) || port == bpf_htons(68) || port == bpf_htons(546) || port == bpf_htons(547);
}

/*
 * TCP between the host and a node by the ports of the mesh's own services. A machine has none of these: it only calls them.
 * What answers by such a port opens nothing.
 */
static __always_inline bool is_mesh_service(const struct flow *flow, __u32 direction, __u32 identity)
{
	bool is_call, is_answer;

	if (flow->protocol != IPPROTO_TCP || identity_kind(identity) != IDENTITY_KIND_NODE)
		return false;
	is_call = is_open_port(flow->destination_port);
	is_answer = !ct_is_opening(flow) && is_open_port(flow->source_port);
	if (has_config_flag(CONFIG_MACHINE))
		return direction == DIRECTION_EGRESS ? is_call : is_answer;
	return is_call || is_answer;
}

/*
 * What is never judged, so that no policy cuts a host off from its mesh (docs/policy.md, Policies of nodes): errors about
 * packets, DHCP, and the mesh's own services.
 */
static __always_inline bool is_always_open(const struct flow *flow, __u32 direction, __u32 identity)
{
	if (flow->kind == FLOW_ICMP_ERROR)
		return true;
	if (flow->protocol == IPPROTO_UDP)
		return is_lease_port(flow->destination_port);
	return is_mesh_service(flow, direction, identity);
}

/*
 * Whether a packet that was denied may answer a connection which is older than what connection tracking knows: of the time
 * before the host was an endpoint, or silent for long. Then the other direction's policy counts. A function of its own, for
 * the room that it needs on the stack; `what` as in judge_packet().
 */
__noinline int is_late_answer(__u64 what, __u32 direction, __u32 identity)
{
	const struct subject host = { .endpoint_id = what, .flags = what >> 16, .identity = what >> 32 };
	const struct scratch *scratch = lookup_scratch();
	__u8 forward = opposite(direction);
	const struct flow *flow;
	__u64 now = now_ns();

	if (!scratch)
		return 0;
	flow = &scratch->flow;
	if (flow->protocol != IPPROTO_TCP || flow->tcp_flags & TCP_SYN || !looks_like_answer(flow))
		return 0;
	if (ct_find_own(flow, direction, now) || ct_find_answered(flow, direction, now))
		return 0;
	return !is_judged(&host, forward, identity) ||
	       !policy_verdict(host.endpoint_id, forward, identity, flow->protocol, flow->source_port);
}

/* Judges the packet of mesh_scratch by the host's row, or only remembers it, where it `is_open` in any case. */
static __always_inline int judge_by_row(struct __sk_buff *ctx, const struct mesh_endpoint *row, bool is_open,
					__u32 direction, __u32 identity)
{
	__u64 what = row->endpoint_id | (__u64)row->identity << 32;
	int reason;

	if (!is_open)
		what |= (__u64)row->flags << 16;
	reason = judge_packet(ctx, what, direction, identity);
	if (reason && is_late_answer(what, direction, identity))
		return 0;
	return reason;
}

/*
 * May the packet of mesh_scratch enter (ingress) or leave (egress) the host, the other side being `identity`? Returns 0,
 * having remembered the flow, or the reason to drop. The verifier reads it once.
 */
__noinline int judge_host(struct __sk_buff *ctx, __u32 direction, __u32 identity)
{
	const struct mesh_endpoint *row = lookup_host();
	const struct scratch *scratch = lookup_scratch();

	if (!row || !scratch)
		return 0;
	return judge_by_row(ctx, row, is_always_open(&scratch->flow, direction, identity), direction, identity);
}

static __always_inline bool is_multicast(const struct mesh_address *address)
{
	__u32 first = bpf_ntohl(address->words[3]) >> 28;

	/* 240.0.0.0 and above are reserved, but for the broadcast address. */
	return is_mapped4(address) ? first >= 0xe : is_multicast6(address);
}

/*
 * Whether the stack keeps the packet of mesh_scratch for the host itself, under whichever of its addresses. What has many
 * receivers is no call of anybody's.
 */
__noinline int enters_host(struct __sk_buff *ctx)
{
	struct bpf_fib_lookup route = { .ifindex = ctx->ifindex };
	const struct mesh_config *config = lookup_config();
	struct scratch *scratch = lookup_scratch();
	const struct mesh_address *to;
	long result;

	if (!scratch || !config)
		return 0;
	to = &scratch->flow.destination;
	if (is_own_address(config, to, lookup_ipcache(to)))
		return 1;
	if (is_multicast(to))
		return 0;
	fill_route(&route, &scratch->flow);
	result = fib_lookup(ctx, &route, sizeof(route), 0);
	/* A host that forwards nothing keeps, or refuses, what it gets. */
	return result == BPF_FIB_LKUP_RET_NOT_FWDED || result == BPF_FIB_LKUP_RET_FWD_DISABLED;
}

/* Remembers a flow of a host that is no endpoint, so that its answers are known. As judge_host() otherwise. */
static __always_inline int track_host(struct __sk_buff *ctx, __u32 direction, __u32 identity)
{
	return judge_packet(ctx, 0, direction, identity);
}

/* Drops what the host may not send, or get; `identity` is the other side's. */
__noinline int drop_host(struct __sk_buff *ctx, __u32 reason, __u32 direction, __u32 identity)
{
	const struct mesh_endpoint *host = lookup_host();
	__u32 own = host ? host->identity : IDENTITY_HOST;
	bool enters = direction == DIRECTION_INGRESS;

	return drop_flow(ctx, reason, direction, enters ? identity : own, enters ? own : identity,
			 host ? host->endpoint_id : 0);
}

__noinline int emit_trace_of_host(struct __sk_buff *ctx, __u32 reason, __u32 direction, __u32 identity)
{
	const struct mesh_endpoint *host = lookup_host();
	struct scratch *scratch = lookup_scratch();
	__u32 own = host ? host->identity : IDENTITY_HOST;
	bool enters = direction == DIRECTION_INGRESS;

	if (scratch)
		trace(ctx, &scratch->flow, reason, direction, enters ? identity : own, enters ? own : identity,
		      host ? host->endpoint_id : 0);
	return 0;
}

/* Tells of what the host sends, or gets; `identity` is the other side's. */
static __always_inline void trace_host(struct __sk_buff *ctx, __u32 reason, __u32 direction, __u32 identity)
{
	if (trace_level())
		emit_trace_of_host(ctx, reason, direction, identity);
}

/* Whether policy closes the host in a direction, but for what it allows. */
static __always_inline bool is_host_closed(const struct mesh_config *config, __u32 direction)
{
	__u16 closed = direction == DIRECTION_INGRESS ? ENDPOINT_INGRESS_ENFORCED : ENDPOINT_EGRESS_ENFORCED;
	const struct mesh_endpoint *host = lookup_host();

	return host && host->flags & closed && !(host->flags & ENDPOINT_AUDIT) &&
	       !(config->flags & CONFIG_POLICY_AUDIT);
}

/*
 * A packet that cannot be read: it is for the stack to judge, but where the host is closed to who sends it, or gets it. A
 * fragment without its first one comes to nothing: that one is judged.
 */
static __always_inline int refuse_unread(struct __sk_buff *ctx, const struct mesh_config *config, const struct flow *flow,
					 __u32 reason, __u32 direction)
{
	bool enters = direction == DIRECTION_INGRESS;
	__u32 identity;

	if (!(config->flags & CONFIG_HOST_JUDGED) || reason == DROP_FRAGMENT_NOT_FOUND)
		return TC_ACT_UNSPEC;
	if (!enters && ctx->ingress_ifindex)
		return TC_ACT_UNSPEC;
	if (!is_host_closed(config, direction))
		return TC_ACT_UNSPEC;
	identity = identity_of(enters ? &flow->source : &flow->destination);
	if (!is_of_mesh(identity) || (enters && !enters_host(ctx)))
		return TC_ACT_UNSPEC;
	return drop_host(ctx, reason, direction, identity);
}

#endif
