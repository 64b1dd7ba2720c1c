/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Path MTU discovery at the mouth of the tunnel. A redirect into a VXLAN device skips the kernel's MTU check, so a packet
 * that is too large is answered here, as a router would: "fragmentation needed" or "packet too big", built in its place.
 */
#ifndef MESH_TOO_BIG_H
#define MESH_TOO_BIG_H

#include "common.h"
#include "flow.h"
#include "metrics.h"

#define IP_DO_NOT_FRAGMENT 0x4000
#define ICMP_FRAGMENTATION_NEEDED 4
#define ICMP6_PACKET_TOO_BIG 2
/* Traffic class of errors: network control. */
#define ERROR_TOS 0xc0
#define ERROR_TTL 64
/* gso_size of SCTP: the segments are as they are. */
#define GSO_BY_FRAGMENTS 0xffff

/* What an answer quotes: the longest IPv4 header and the 8 bytes of transport that tell sockets apart. */
#define QUOTE4 68
/* IPv6: the header, some extension headers, and transport. */
#define QUOTE6 128

/* Answers an interface gets: 1,000 a second, 100 of them at once. As many as the kernel's own errors. */
#define ANSWER_INTERVAL_NS 1000000ULL
#define ANSWER_BURST_NS (100 * ANSWER_INTERVAL_NS)

/* Which way an answer goes back. */
enum answer_way {
	/* Into the endpoint behind this veth. */
	ANSWER_ENDPOINT,
	/* Out of the device that the packet came from. */
	ANSWER_LINK,
};

/* Behind the new IP header. For IPv4 the MTU has 16 bits, before them as many zeroes. */
struct too_big_header {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 mtu;
};

struct too_big4 {
	struct iphdr ip;
	struct too_big_header icmp;
	__u8 quote[QUOTE4];
};

struct too_big6 {
	struct ipv6hdr ip;
	struct too_big_header icmp;
	__u8 quote[QUOTE6];
};

/* Interface index -> when its allowance will be full again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} mesh_icmp_limits SEC(".maps");

static __always_inline bool may_answer(__u32 ifindex)
{
	__u64 *full_ns = bpf_map_lookup_elem(&mesh_icmp_limits, &ifindex);
	__u64 now = now_ns(), next;

	if (full_ns && *full_ns > now + ANSWER_BURST_NS)
		return false;
	next = (full_ns && *full_ns > now ? *full_ns : now) + ANSWER_INTERVAL_NS;
	if (full_ns)
		*full_ns = next;
	else
		bpf_map_update_elem(&mesh_icmp_limits, &ifindex, &next, BPF_ANY);
	return true;
}

/* Length of the IP packets that a segmented one becomes on the wire; 0 when that cannot be told. */
static __always_inline __u32 segment_length(struct __sk_buff *ctx, const struct flow *flow)
{
	__u32 headers = flow->transport_offset - ETH_HLEN;
	__u8 byte;

	if (ctx->gso_size == GSO_BY_FRAGMENTS)
		return 0;
	/* The hop-by-hop header of a jumbogram (IPv6 packets beyond 64 KiB) goes when it is cut into segments. */
	if (!is_mapped4(&flow->source)) {
		if (bpf_skb_load_bytes(ctx, ETH_HLEN + offsetof(struct ipv6hdr, nexthdr), &byte, 1))
			return 0;
		if (byte == IPPROTO_HOPOPTS)
			headers -= 8;
	}
	if (flow->protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(ctx, flow->transport_offset + 12, &byte, 1))
			return 0;
		return headers + (byte >> 4) * 4 + ctx->gso_size;
	}
	return flow->protocol == IPPROTO_UDP ? headers + 8 + ctx->gso_size : 0;
}

/* Whether a packet is larger than `mtu` and must not be fragmented by anybody but its sender. */
static __always_inline bool is_too_big(struct __sk_buff *ctx, const struct flow *flow, __u32 mtu)
{
	__u32 length = ctx->len - ETH_HLEN;
	__be16 fragment;

	if (length <= mtu)
		return false;
	if (ctx->gso_size && segment_length(ctx, flow) <= mtu)
		return false;
	if (!is_mapped4(&flow->source))
		return true;
	if (bpf_skb_load_bytes(ctx, ETH_HLEN + offsetof(struct iphdr, frag_off), &fragment, sizeof(fragment)))
		return false;
	return fragment & bpf_htons(IP_DO_NOT_FRAGMENT);
}

static __always_inline __sum16 fold_checksum(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Cuts the packet down to its quote and makes room before that, behind the link header. */
static __always_inline int make_quote(struct __sk_buff *ctx, __u32 quote, __u32 headers)
{
	if (bpf_skb_change_tail(ctx, ETH_HLEN + quote, 0))
		return -1;
	if (bpf_skb_adjust_room(ctx, headers, BPF_ADJ_ROOM_MAC, 0))
		return -1;
	return bpf_skb_pull_data(ctx, ETH_HLEN + headers + quote);
}

static __always_inline void turn_link_header(struct ethhdr *link)
{
	__u8 source[ETH_ALEN];

	__builtin_memcpy(source, link->h_source, ETH_ALEN);
	__builtin_memcpy(link->h_source, link->h_dest, ETH_ALEN);
	__builtin_memcpy(link->h_dest, source, ETH_ALEN);
}

/*
 * Puts an error about a packet in its place. In the name of the destination: that address surely has a route back to
 * here. `mtu` is 0 for errors that tell none.
 */
static __always_inline int build_error4(struct __sk_buff *ctx, __u8 code, __u32 mtu)
{
	const struct iphdr *about;
	struct too_big4 *answer;
	void *data;

	if (make_quote(ctx, QUOTE4, offsetof(struct too_big4, quote)))
		return -1;
	data = (void *)(long)ctx->data;
	answer = data + ETH_HLEN;
	if ((void *)(answer + 1) > (void *)(long)ctx->data_end)
		return -1;
	turn_link_header(data);
	about = (const struct iphdr *)answer->quote;
	__builtin_memset(answer, 0, offsetof(struct too_big4, quote));
	answer->ip.version = 4;
	answer->ip.ihl = sizeof(answer->ip) / 4;
	answer->ip.tos = ERROR_TOS;
	answer->ip.tot_len = bpf_htons(sizeof(*answer));
	answer->ip.ttl = ERROR_TTL;
	answer->ip.protocol = IPPROTO_ICMP;
	answer->ip.saddr = about->daddr;
	answer->ip.daddr = about->saddr;
	answer->ip.check = fold_checksum(bpf_csum_diff(NULL, 0, (__be32 *)&answer->ip, sizeof(answer->ip), 0));
	answer->icmp.type = ICMP_DESTINATION_UNREACHABLE;
	answer->icmp.code = code;
	answer->icmp.mtu = bpf_htonl(mtu);
	answer->icmp.checksum = fold_checksum(bpf_csum_diff(NULL, 0, (__be32 *)&answer->icmp,
							    sizeof(answer->icmp) + QUOTE4, 0));
	return 0;
}

/* The same for IPv6. */
static __always_inline int build_error6(struct __sk_buff *ctx, __u8 type, __u8 code, __u32 mtu)
{
	const struct ipv6hdr *about;
	struct too_big6 *answer;
	__u32 length = sizeof(answer->icmp) + QUOTE6;
	void *data;
	__u64 sum;

	if (make_quote(ctx, QUOTE6, offsetof(struct too_big6, quote)))
		return -1;
	data = (void *)(long)ctx->data;
	answer = data + ETH_HLEN;
	if ((void *)(answer + 1) > (void *)(long)ctx->data_end)
		return -1;
	turn_link_header(data);
	about = (const struct ipv6hdr *)answer->quote;
	__builtin_memset(answer, 0, offsetof(struct too_big6, quote));
	answer->ip.version = 6;
	answer->ip.payload_len = bpf_htons(length);
	answer->ip.nexthdr = IPPROTO_ICMPV6;
	answer->ip.hop_limit = ERROR_TTL;
	answer->ip.saddr = about->daddr;
	answer->ip.daddr = about->saddr;
	answer->icmp.type = type;
	answer->icmp.code = code;
	answer->icmp.mtu = bpf_htonl(mtu);
	/* The pseudo header: addresses, length, protocol. */
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&answer->ip.saddr, 2 * sizeof(struct in6_addr),
			    bpf_htons(length) + bpf_htons(IPPROTO_ICMPV6));
	answer->icmp.checksum = fold_checksum(bpf_csum_diff(NULL, 0, (__be32 *)&answer->icmp, length, sum));
	return 0;
}

/*
 * Tells the sender of a packet that is too big what fits, and drops the packet. A function of its own, which the verifier
 * reads once, with a stack of its own. Returns a verdict. `identity`: the sender's.
 */
__noinline int answer_too_big(struct __sk_buff *ctx, __u32 mtu, __u32 identity, __u32 way)
{
	__u32 ifindex = ctx->ifindex;

	if (!may_answer(ifindex))
		return drop_flow(ctx, DROP_PACKET_TOO_BIG_SILENT, DIRECTION_EGRESS, identity, 0, 0);
	drop_flow(ctx, DROP_PACKET_TOO_BIG, DIRECTION_EGRESS, identity, 0, 0);
	if (ctx->protocol == bpf_htons(ETH_P_IP) ? build_error4(ctx, ICMP_FRAGMENTATION_NEEDED, mtu) :
						   build_error6(ctx, ICMP6_PACKET_TOO_BIG, 0, mtu))
		return TC_ACT_SHOT;
	return way == ANSWER_ENDPOINT ? redirect_to_peer(ifindex, 0) : redirect_to(ifindex, 0);
}

#endif
