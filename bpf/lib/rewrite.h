/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Writes other addresses and ports into a packet, checksums kept right. A checksum that the device is to complete stays
 * one: BPF_F_PSEUDO_HDR tells the kernel what belongs to the part that is there already.
 */
#ifndef MESH_REWRITE_H
#define MESH_REWRITE_H

#include "common.h"
#include "flow.h"

#define TCP_CHECKSUM 16
#define UDP_CHECKSUM 6
#define ICMP_CHECKSUM 2

static __always_inline void pair_addresses(struct address_pair *pair, const struct mesh_address *source,
					   const struct mesh_address *destination)
{
	if (is_mapped4(source)) {
		pair->words[0] = source->words[3];
		pair->words[1] = destination->words[3];
	} else {
		__builtin_memcpy(&pair->words[0], source->words, sizeof(source->words));
		__builtin_memcpy(&pair->words[4], destination->words, sizeof(destination->words));
	}
}

static __always_inline __be32 pair_ports(__be16 source, __be16 destination)
{
	return (__u32)source | ((__u32)destination << 16);
}

/* Offset of the transport checksum within its header, 0 for protocols whose checksum covers no address. */
static __always_inline __u32 checksum_field(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return TCP_CHECKSUM;
	case IPPROTO_UDP:
		return UDP_CHECKSUM;
	default:
		return 0;
	}
}

/* A UDP checksum of 0 means that there is none: it stays so, and no other becomes 0. */
static __always_inline __u64 checksum_flags(__u8 protocol)
{
	return protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
}

/* Addresses of the IP header at `offset`. Leaves in diff what a checksum over them changes by. */
static __always_inline int rewrite_addresses(struct __sk_buff *ctx, __u32 offset, bool is4,
					     struct address_pair *from, struct address_pair *to, __s64 *diff)
{
	/* An IPv6 header has no checksum that would keep the sum of the whole packet, which the device may have given. */
	__u64 recompute = offset == ETH_HLEN ? BPF_F_RECOMPUTE_CSUM : 0;

	if (is4) {
		*diff = bpf_csum_diff(from->words, 8, to->words, 8, 0);
		if (bpf_skb_store_bytes(ctx, offset + offsetof(struct iphdr, saddr), to->words, 8, 0) ||
		    bpf_l3_csum_replace(ctx, offset + offsetof(struct iphdr, check), 0, *diff, 0))
			return DROP_INVALID_PACKET;
	} else {
		*diff = bpf_csum_diff(from->words, 32, to->words, 32, 0);
		if (bpf_skb_store_bytes(ctx, offset + offsetof(struct ipv6hdr, saddr), to->words, 32, recompute))
			return DROP_INVALID_PACKET;
	}
	return 0;
}

static __always_inline int rewrite_plain(struct __sk_buff *ctx, struct scratch *scratch)
{
	const struct mesh_nat_value *to = &scratch->translation;
	const struct flow *flow = &scratch->flow;
	__be32 from_ports = pair_ports(flow->source_port, flow->destination_port);
	__be32 to_ports = pair_ports(to->source_port, to->destination_port);
	__u32 field = checksum_field(flow->protocol);
	__u32 checksum = flow->transport_offset + field;
	__u64 flags = checksum_flags(flow->protocol);
	bool is4 = is_mapped4(&flow->source);
	__s64 diff;

	pair_addresses(&scratch->old, &flow->source, &flow->destination);
	pair_addresses(&scratch->new, &to->source, &to->destination);
	if (rewrite_addresses(ctx, ETH_HLEN, is4, &scratch->old, &scratch->new, &diff))
		return DROP_INVALID_PACKET;
	/* The first fragment's checksum stands for the whole datagram. */
	if (flow->fragment == FRAGMENT_LATER)
		return 0;
	if (field && bpf_l4_csum_replace(ctx, checksum, 0, diff, BPF_F_PSEUDO_HDR | flags))
		return DROP_INVALID_PACKET;
	if (from_ports == to_ports)
		return 0;
	/* SCTP's checksum covers its ports, and cannot be adjusted. */
	if (!field)
		return DROP_NAT_UNSUPPORTED;
	if (bpf_l4_csum_replace(ctx, checksum, from_ports, to_ports, flags | sizeof(to_ports)) ||
	    bpf_skb_store_bytes(ctx, flow->transport_offset, &to_ports, sizeof(to_ports), 0))
		return DROP_INVALID_PACKET;
	return 0;
}

/*
 * Transport header of the packet that an error carries: ports, and the checksum where it has been carried along. Adds to
 * diff what the error's own checksum changes by.
 */
static __always_inline int rewrite_inner_transport(struct __sk_buff *ctx, const struct flow *inner, __be32 to_ports,
						   __s64 address_diff, __s64 *diff)
{
	__be32 from_ports = pair_ports(inner->source_port, inner->destination_port);
	__u32 field = checksum_field(inner->protocol);
	__u32 checksum = inner->transport_offset + field;
	__be32 before = 0, after = 0;
	__s64 ports_diff = bpf_csum_diff(&from_ports, sizeof(from_ports), &to_ports, sizeof(to_ports), 0);

	if (from_ports != to_ports &&
	    bpf_skb_store_bytes(ctx, inner->transport_offset, &to_ports, sizeof(to_ports), 0))
		return DROP_INVALID_PACKET;
	*diff = bpf_csum_diff(&from_ports, sizeof(from_ports), &to_ports, sizeof(to_ports), *diff);
	if (!field || bpf_skb_load_bytes(ctx, checksum, &before, sizeof(__be16)))
		return 0;
	if (bpf_l4_csum_replace(ctx, checksum, 0, address_diff, checksum_flags(inner->protocol)) ||
	    bpf_l4_csum_replace(ctx, checksum, 0, ports_diff, checksum_flags(inner->protocol)) ||
	    bpf_skb_load_bytes(ctx, checksum, &after, sizeof(__be16)))
		return DROP_INVALID_PACKET;
	*diff = bpf_csum_diff(&before, sizeof(before), &after, sizeof(after), *diff);
	return 0;
}

/*
 * An ICMP error travels against the packet that it is about: what was sent by `to`'s destination to `to`'s source. Its own
 * source becomes the other end too, where that is translated: the router that found the error has no place in the view of
 * who called a frontend.
 */
static __always_inline int rewrite_error(struct __sk_buff *ctx, struct scratch *scratch)
{
	const struct mesh_nat_value *to = &scratch->translation;
	const struct flow *flow = &scratch->flow;
	bool is4 = is_mapped4(&flow->source);
	__s64 address_diff, outer_diff, diff;
	const struct flow *inner = parse_inner_flow(ctx, flow);
	__u32 checksum = flow->inner_offset - sizeof(struct icmp_header) + ICMP_CHECKSUM;

	if (!inner)
		return DROP_INVALID_PACKET;
	pair_addresses(&scratch->old, &inner->source, &inner->destination);
	pair_addresses(&scratch->new, &to->destination, &to->source);
	if (rewrite_addresses(ctx, flow->inner_offset, is4, &scratch->old, &scratch->new, &address_diff))
		return DROP_INVALID_PACKET;
	/* With IPv4, the inner header's own checksum has taken the difference up. */
	diff = is4 ? 0 : address_diff;
	if (rewrite_inner_transport(ctx, inner, pair_ports(to->destination_port, to->source_port), address_diff, &diff))
		return DROP_INVALID_PACKET;

	pair_addresses(&scratch->old, &flow->source, &flow->destination);
	pair_addresses(&scratch->new, same_address(&inner->destination, &to->source) ? &flow->source : &to->source,
		       &to->destination);
	if (rewrite_addresses(ctx, ETH_HLEN, is4, &scratch->old, &scratch->new, &outer_diff) ||
	    bpf_l4_csum_replace(ctx, checksum, 0, diff, 0))
		return DROP_INVALID_PACKET;
	/* Only ICMPv6's checksum covers the addresses outside. */
	if (!is4 && bpf_l4_csum_replace(ctx, checksum, 0, outer_diff, BPF_F_PSEUDO_HDR))
		return DROP_INVALID_PACKET;
	return 0;
}

/*
 * Makes the packet of mesh_scratch what its translation says: a packet of that flow itself, or an ICMP error that goes its
 * way. The scratch's flow then describes the new packet. Returns 0 or the reason to drop it.
 */
__noinline int rewrite_packet(struct __sk_buff *ctx)
{
	struct scratch *scratch = lookup_scratch();
	const struct mesh_nat_value *to;
	struct flow *flow;
	int reason;

	if (!scratch)
		return DROP_INVALID_PACKET;
	flow = &scratch->flow;
	to = &scratch->translation;
	if (flow->kind == FLOW_ICMP_ERROR)
		reason = rewrite_error(ctx, scratch);
	else
		reason = rewrite_plain(ctx, scratch);
	if (reason)
		return reason;
	flow->translated = 1;
	flow->destination = to->destination;
	if (flow->kind == FLOW_ICMP_ERROR)
		return 0;
	flow->source = to->source;
	flow->source_port = to->source_port;
	flow->destination_port = to->destination_port;
	return 0;
}

#endif
