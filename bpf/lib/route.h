/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Packets that leave by the node's own routes without passing its stack, which refuses its own addresses as sources. */
#ifndef MESH_ROUTE_H
#define MESH_ROUTE_H

#include "common.h"
#include "deliver.h"
#include "flow.h"

#define AF_INET 2
#define AF_INET6 10

/* What a route lookup needs to know of a packet; the interface that it came in by is the caller's to say. */
static __always_inline void fill_route(struct bpf_fib_lookup *route, const struct flow *flow)
{
	route->l4_protocol = flow->protocol;
	route->sport = flow->source_port;
	route->dport = flow->destination_port;
	if (is_mapped4(&flow->destination)) {
		route->family = AF_INET;
		route->ipv4_src = flow->source.words[3];
		route->ipv4_dst = flow->destination.words[3];
	} else {
		route->family = AF_INET6;
		__builtin_memcpy(route->ipv6_src, flow->source.words, sizeof(route->ipv6_src));
		__builtin_memcpy(route->ipv6_dst, flow->destination.words, sizeof(route->ipv6_dst));
	}
}

/* Sends the packet of mesh_scratch. Returns TC_ACT_REDIRECT, or the reason to drop. */
__noinline int send_by_route(struct __sk_buff *ctx)
{
	struct scratch *scratch = lookup_scratch();
	struct bpf_fib_lookup route = { .ifindex = ctx->ifindex };
	struct bpf_redir_neigh next = {};
	long result;

	if (!scratch)
		return DROP_INVALID_PACKET;
	fill_route(&route, &scratch->flow);
	result = fib_lookup(ctx, &route, sizeof(route), 0);
	if (result == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return DROP_PACKET_TOO_BIG_SILENT;
	/* Without a neighbour the kernel asks for one, and keeps the packet meanwhile. */
	if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH)
		return DROP_NO_ROUTE;
	next.nh_family = route.family;
	if (route.family == AF_INET)
		next.ipv4_nh = route.ipv4_dst;
	else
		__builtin_memcpy(next.ipv6_nh, route.ipv6_dst, sizeof(next.ipv6_nh));
	count(COUNT_FORWARDED, DIRECTION_EGRESS, ctx->len);
	return redirect_to_neighbour(route.ifindex, &next, sizeof(next), 0);
}

#endif
