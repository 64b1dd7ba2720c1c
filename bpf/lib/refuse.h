/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * A call that nobody can answer is refused as a closed port would refuse it, and not left to time out: TCP by a reset,
 * anything else by "port unreachable", built in the packet's place.
 */
#ifndef MESH_REFUSE_H
#define MESH_REFUSE_H

#include "common.h"
#include "deliver.h"
#include "flow.h"
#include "metrics.h"
#include "too_big.h"

#define ICMP_PORT_UNREACHABLE 3
#define ICMP6_UNREACHABLE 1
#define ICMP6_PORT_UNREACHABLE 4

/* Bytes of the reset's header, as words. */
struct reset {
	__be16 source;
	__be16 destination;
	__be32 sequence;
	__be32 acknowledgement;
	__u8 length;
	__u8 flags;
	__be16 window;
	__sum16 checksum;
	__be16 urgent;
};
ASSERT_SIZE(struct reset, 20);

/* RFC 9293, 3.10.7.1: in the sequence space of whoever called, else it would not be believed. */
static __always_inline void number_reset(struct reset *reset, const struct reset *call, __u32 payload)
{
	if (call->flags & TCP_ACK) {
		reset->sequence = call->acknowledgement;
		reset->flags = TCP_RST;
		return;
	}
	if (call->flags & TCP_SYN)
		payload += 1;
	if (call->flags & TCP_FIN)
		payload += 1;
	reset->acknowledgement = bpf_htonl(bpf_ntohl(call->sequence) + payload);
	reset->flags = TCP_RST | TCP_ACK;
}

/* Puts the IP header and the reset in place of the packet, which goes back where it came from. */
static __always_inline int place_reset(struct __sk_buff *ctx, const void *header, __u32 size, const struct reset *reset)
{
	struct ethhdr link;

	if (bpf_skb_change_tail(ctx, ETH_HLEN + size + sizeof(*reset), 0) ||
	    bpf_skb_load_bytes(ctx, 0, &link, sizeof(link)))
		return -1;
	turn_link_header(&link);
	if (bpf_skb_store_bytes(ctx, 0, &link, sizeof(link), 0) ||
	    bpf_skb_store_bytes(ctx, ETH_HLEN, header, size, 0) ||
	    bpf_skb_store_bytes(ctx, ETH_HLEN + size, reset, sizeof(*reset), 0))
		return -1;
	return 0;
}

static __always_inline int build_reset4(struct __sk_buff *ctx, const struct reset *call, struct reset *reset)
{
	struct iphdr old, new = {};
	__u64 sum;

	if (bpf_skb_load_bytes(ctx, ETH_HLEN, &old, sizeof(old)))
		return -1;
	number_reset(reset, call, bpf_ntohs(old.tot_len) - sizeof(old) - (call->length >> 4) * 4);
	new.version = 4;
	new.ihl = sizeof(new) / 4;
	new.tot_len = bpf_htons(sizeof(new) + sizeof(*reset));
	new.frag_off = bpf_htons(IP_DO_NOT_FRAGMENT);
	new.ttl = ERROR_TTL;
	new.protocol = IPPROTO_TCP;
	new.saddr = old.daddr;
	new.daddr = old.saddr;
	new.check = fold_checksum(bpf_csum_diff(NULL, 0, (__be32 *)&new, sizeof(new), 0));
	sum = bpf_csum_diff(NULL, 0, &new.saddr, 2 * sizeof(new.saddr),
			    bpf_htons(sizeof(*reset)) + bpf_htons(IPPROTO_TCP));
	reset->checksum = fold_checksum(bpf_csum_diff(NULL, 0, (__be32 *)reset, sizeof(*reset), sum));
	return place_reset(ctx, &new, sizeof(new), reset);
}

static __always_inline int build_reset6(struct __sk_buff *ctx, const struct reset *call, struct reset *reset)
{
	struct ipv6hdr old, new = {};
	__u64 sum;

	if (bpf_skb_load_bytes(ctx, ETH_HLEN, &old, sizeof(old)))
		return -1;
	number_reset(reset, call, bpf_ntohs(old.payload_len) - (call->length >> 4) * 4);
	new.version = 6;
	new.payload_len = bpf_htons(sizeof(*reset));
	new.nexthdr = IPPROTO_TCP;
	new.hop_limit = ERROR_TTL;
	new.saddr = old.daddr;
	new.daddr = old.saddr;
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&new.saddr, 2 * sizeof(new.saddr),
			    bpf_htons(sizeof(*reset)) + bpf_htons(IPPROTO_TCP));
	reset->checksum = fold_checksum(bpf_csum_diff(NULL, 0, (__be32 *)reset, sizeof(*reset), sum));
	return place_reset(ctx, &new, sizeof(new), reset);
}

static __always_inline int build_reset(struct __sk_buff *ctx, const struct flow *flow)
{
	bool is4 = is_mapped4(&flow->source);
	struct reset call, reset = {};

	/* Resets answer nothing (RFC 9293). Options and extension headers are too rare here to be worth their code. */
	if (flow->tcp_flags & TCP_RST ||
	    flow->transport_offset != ETH_HLEN + (is4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)))
		return -1;
	if (bpf_skb_load_bytes(ctx, flow->transport_offset, &call, sizeof(call)))
		return -1;
	reset.source = call.destination;
	reset.destination = call.source;
	reset.length = sizeof(reset) / 4 << 4;
	return is4 ? build_reset4(ctx, &call, &reset) : build_reset6(ctx, &call, &reset);
}

/*
 * Refuses the packet of mesh_scratch, which an endpoint sent (ANSWER_ENDPOINT) or somebody outside (ANSWER_LINK), as
 * DROP_SERVICE_NO_BACKEND. Returns a verdict.
 */
__noinline int refuse(struct __sk_buff *ctx, __u32 identity, __u32 endpoint_id, __u32 way)
{
	__u32 direction = way == ANSWER_ENDPOINT ? DIRECTION_EGRESS : DIRECTION_INGRESS;
	struct scratch *scratch = lookup_scratch();
	__u32 ifindex = ctx->ifindex;
	const struct flow *flow;
	int failed;

	drop_flow(ctx, DROP_SERVICE_NO_BACKEND, direction, identity, 0, endpoint_id);
	if (!scratch || scratch->flow.fragment == FRAGMENT_LATER || !may_answer(ifindex))
		return TC_ACT_SHOT;
	flow = &scratch->flow;
	if (flow->protocol == IPPROTO_TCP)
		failed = build_reset(ctx, flow);
	else if (is_mapped4(&flow->source))
		failed = build_error4(ctx, ICMP_PORT_UNREACHABLE, 0);
	else
		failed = build_error6(ctx, ICMP6_UNREACHABLE, ICMP6_PORT_UNREACHABLE, 0);
	if (failed)
		return TC_ACT_SHOT;
	return way == ANSWER_ENDPOINT ? redirect_to_peer(ifindex, 0) : redirect_to(ifindex, 0);
}

#endif
