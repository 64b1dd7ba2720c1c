/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What a packet is: addresses, protocol, ports. Parsed once, then passed around. */
#ifndef MESH_FLOW_H
#define MESH_FLOW_H

#include "common.h"
#include "headers.h"

/* The addresses of a packet as they stand in its header, one after the other; of IPv4 only the first two words count. */
struct address_pair {
	__be32 words[8];
};

/*
 * Room for one packet of each CPU. Functions that take it from here instead of from their caller's stack can be global:
 * the verifier then reads them once, and not again at each call with all that may have come before.
 */
struct scratch {
	struct flow flow;
	struct flow inner;
	/* What nat.h makes of the flow, and what it needs on the way. */
	struct mesh_nat_value translation;
	struct mesh_nat_value other;
	struct mesh_nat_key key;
	/* What rewrite.h replaces by what. */
	struct address_pair old;
	struct address_pair new;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} mesh_scratch SEC(".maps");

static __always_inline struct scratch *lookup_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&mesh_scratch, &zero);
}

/* Fills the scratch's flow from the packet. Returns 0 or the reason to drop it. */
__noinline int parse_packet(struct __sk_buff *ctx)
{
	struct scratch *scratch = lookup_scratch();

	if (!scratch)
		return DROP_INVALID_PACKET;
	__builtin_memset(&scratch->flow, 0, sizeof(scratch->flow));
	return parse_headers(ctx, &scratch->flow);
}

__noinline int parse_inner_packet(struct __sk_buff *ctx, __u32 offset)
{
	struct scratch *scratch = lookup_scratch();

	if (!scratch)
		return DROP_INVALID_PACKET;
	__builtin_memset(&scratch->inner, 0, sizeof(scratch->inner));
	return parse_inner_headers(ctx, offset, &scratch->inner);
}

/* The packet that could not be delivered, from the header that an ICMP error carries; NULL: too little of it. */
static __always_inline const struct flow *parse_inner_flow(struct __sk_buff *ctx, const struct flow *error)
{
	struct scratch *scratch = lookup_scratch();

	if (!scratch || parse_inner_packet(ctx, error->inner_offset))
		return NULL;
	return &scratch->inner;
}

#endif
