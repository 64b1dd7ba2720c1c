/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Headers of packets, read field by field. For programs there is flow.h. */
#ifndef MESH_HEADERS_H
#define MESH_HEADERS_H

#include <linux/ip.h>
#include <linux/ipv6.h>

#include "common.h"

#define IP_MORE_FRAGMENTS 0x2000
#define IP_FRAGMENT_OFFSET 0x1fff
#define IP6_MORE_FRAGMENTS 0x0001
#define IP6_FRAGMENT_OFFSET 0xfff8

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define IPV6_EXTENSIONS_MAX 6

/* linux/icmp.h drags in headers of the C library, which has none for bpf. Types 133 to 137 are neighbour discovery. */
#define ICMP_ECHO_REPLY 0
#define ICMP_DESTINATION_UNREACHABLE 3
#define ICMP_ECHO_REQUEST 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMP6_ERROR_FIRST 1
#define ICMP6_ERROR_LAST 4
#define ICMP6_ECHO_REQUEST 128
#define ICMP6_ECHO_REPLY 129
#define ICMP6_NEIGHBOUR_FIRST 133
#define ICMP6_NEIGHBOUR_LAST 137

struct icmp_header {
	__u8 type;
	__u8 code;
	__u16 checksum;
	/* Echo only. */
	__be16 id;
	__be16 sequence;
};

enum fragment_kind {
	FRAGMENT_NONE,
	FRAGMENT_FIRST,
	FRAGMENT_LATER,
};

enum flow_kind {
	FLOW_PLAIN,
	/* An ICMP error: about another packet, whose header it carries at inner_offset. */
	FLOW_ICMP_ERROR,
	/* Never crosses a router: neighbour discovery, IPv6 between link-local and link-local or multicast addresses. */
	FLOW_LINK_LOCAL,
};

struct flow {
	struct mesh_address source;
	struct mesh_address destination;
	/* ICMP echo: the identifier, as source port of the request and destination port of the answer. */
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 tcp_flags;
	__u8 kind;
	/* FLOW_STATE_*, once connection tracking has been asked. */
	__u8 state;
	__u32 inner_offset;
	/* Where the transport header begins; in a later fragment, the data. */
	__u32 transport_offset;
	/* enum fragment_kind. */
	__u8 fragment;
	/* mesh_nat has rewritten it, before connection tracking is asked. */
	__u8 translated;
	/* Connection tracking knows the flow, as one that mesh_nat has no part in. */
	__u8 untranslated;
	/* Of ICMP and ICMPv6; else 0. */
	__u8 icmp_type;
	/*
	 * Through the tunnel: the node that the packet came from, or that an answer goes back to, once connection tracking has
	 * been asked. Zero for what did not, and does not, pass the tunnel.
	 */
	struct mesh_address node;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct mesh_fragment_key);
	__type(value, struct mesh_fragment_value);
} mesh_fragments SEC(".maps");

/* Where the transport header begins, and what is known of fragmentation. */
struct network_end {
	__u32 offset;
	__be32 fragment_id;
	__u8 fragment;
};

static __always_inline int parse_ipv4(struct __sk_buff *ctx, __u32 offset, struct flow *flow,
				      struct network_end *end)
{
	struct iphdr header;
	__u16 fragment;

	if (bpf_skb_load_bytes(ctx, offset, &header, sizeof(header)) || header.version != 4 || header.ihl < 5)
		return DROP_INVALID_PACKET;
	map_address4(&flow->source, header.saddr);
	map_address4(&flow->destination, header.daddr);
	flow->protocol = header.protocol;
	end->offset = offset + header.ihl * 4;
	fragment = bpf_ntohs(header.frag_off);
	if (fragment & IP_FRAGMENT_OFFSET)
		end->fragment = FRAGMENT_LATER;
	else if (fragment & IP_MORE_FRAGMENTS)
		end->fragment = FRAGMENT_FIRST;
	end->fragment_id = header.id;
	return 0;
}

static __always_inline int parse_ipv6(struct __sk_buff *ctx, __u32 offset, struct flow *flow,
				      struct network_end *end)
{
	struct ipv6hdr header;
	__u8 next;

	if (bpf_skb_load_bytes(ctx, offset, &header, sizeof(header)) || header.version != 6)
		return DROP_INVALID_PACKET;
	__builtin_memcpy(&flow->source, &header.saddr, sizeof(flow->source));
	__builtin_memcpy(&flow->destination, &header.daddr, sizeof(flow->destination));
	/* A mapped address on the wire would read as the IPv4 one in every table. */
	if (is_mapped4(&flow->source) || is_mapped4(&flow->destination))
		return DROP_INVALID_PACKET;
	next = header.nexthdr;
	offset += sizeof(header);

#pragma unroll
	for (int i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
		struct {
			__u8 next;
			__u8 length;
			__be16 fragment;
			__be32 id;
		} extension;

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT && next != IPPROTO_AH)
			break;
		if (bpf_skb_load_bytes(ctx, offset, &extension, sizeof(extension)))
			return DROP_INVALID_PACKET;
		if (next == IPPROTO_FRAGMENT) {
			__u16 fragment = bpf_ntohs(extension.fragment);

			end->fragment_id = extension.id;
			if (fragment & IP6_FRAGMENT_OFFSET) {
				end->fragment = FRAGMENT_LATER;
				next = extension.next;
				break;
			}
			if (fragment & IP6_MORE_FRAGMENTS)
				end->fragment = FRAGMENT_FIRST;
			offset += 8;
		} else if (next == IPPROTO_AH) {
			offset += (extension.length + 2) * 4;
		} else {
			offset += (extension.length + 1) * 8;
		}
		next = extension.next;
	}
	if (next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS || next == IPPROTO_FRAGMENT)
		return DROP_UNSUPPORTED_PROTOCOL;
	flow->protocol = next;
	end->offset = offset;
	return 0;
}

static __always_inline int parse_icmp4(struct __sk_buff *ctx, __u32 offset, struct flow *flow)
{
	struct icmp_header header;

	if (bpf_skb_load_bytes(ctx, offset, &header, sizeof(header)))
		return DROP_INVALID_PACKET;
	flow->icmp_type = header.type;
	switch (header.type) {
	case ICMP_ECHO_REQUEST:
		flow->source_port = header.id;
		break;
	case ICMP_ECHO_REPLY:
		flow->destination_port = header.id;
		break;
	case ICMP_DESTINATION_UNREACHABLE:
	case ICMP_TIME_EXCEEDED:
	case ICMP_PARAMETER_PROBLEM:
		flow->kind = FLOW_ICMP_ERROR;
		flow->inner_offset = offset + sizeof(header);
		break;
	}
	return 0;
}

static __always_inline int parse_icmp6(struct __sk_buff *ctx, __u32 offset, struct flow *flow)
{
	struct icmp_header header;

	if (bpf_skb_load_bytes(ctx, offset, &header, sizeof(header)))
		return DROP_INVALID_PACKET;
	flow->icmp_type = header.type;
	if (header.type == ICMP6_ECHO_REQUEST) {
		flow->source_port = header.id;
	} else if (header.type == ICMP6_ECHO_REPLY) {
		flow->destination_port = header.id;
	} else if (header.type >= ICMP6_ERROR_FIRST && header.type <= ICMP6_ERROR_LAST) {
		flow->kind = FLOW_ICMP_ERROR;
		flow->inner_offset = offset + sizeof(header);
	} else if (header.type >= ICMP6_NEIGHBOUR_FIRST && header.type <= ICMP6_NEIGHBOUR_LAST) {
		flow->kind = FLOW_LINK_LOCAL;
	}
	return 0;
}

static __always_inline bool is_icmp(__u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

static __always_inline int parse_transport(struct __sk_buff *ctx, __u32 offset, struct flow *flow)
{
	struct {
		__be16 source;
		__be16 destination;
	} ports;

	switch (flow->protocol) {
	case IPPROTO_ICMP:
		return parse_icmp4(ctx, offset, flow);
	case IPPROTO_ICMPV6:
		return parse_icmp6(ctx, offset, flow);
	case IPPROTO_TCP:
		if (bpf_skb_load_bytes(ctx, offset + 13, &flow->tcp_flags, 1))
			return DROP_INVALID_PACKET;
		break;
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		break;
	default:
		/* Anything else has no ports: policy for all protocols, or for this one, decides. */
		return 0;
	}
	if (bpf_skb_load_bytes(ctx, offset, &ports, sizeof(ports)))
		return DROP_INVALID_PACKET;
	flow->source_port = ports.source;
	flow->destination_port = ports.destination;
	return 0;
}

/* Which of an ICMP message's ports its identifier stands in; see parse_icmp4(). */
static __always_inline bool is_echo_reply(const struct flow *flow)
{
	return flow->icmp_type == (flow->protocol == IPPROTO_ICMP ? ICMP_ECHO_REPLY : ICMP6_ECHO_REPLY);
}

/*
 * Fragments after the first carry no ports: they take those of the first one, which must have come before (it does,
 * unless the network reorders; then the datagram is lost and sent again). Of ICMP, the identifier and the type are kept.
 */
static __always_inline int follow_fragments(struct flow *flow, const struct network_end *end)
{
	struct mesh_fragment_key key = {
		.source = flow->source,
		.destination = flow->destination,
		.id = end->fragment_id,
		.protocol = flow->protocol,
	};

	if (end->fragment == FRAGMENT_FIRST) {
		struct mesh_fragment_value value = {
			.source_port = flow->source_port,
			.destination_port = flow->destination_port,
		};

		if (is_icmp(flow->protocol)) {
			value.source_port |= flow->destination_port;
			value.destination_port = bpf_htons(flow->icmp_type);
		}
		bpf_map_update_elem(&mesh_fragments, &key, &value, BPF_ANY);
	} else {
		const struct mesh_fragment_value *value = bpf_map_lookup_elem(&mesh_fragments, &key);

		if (!value)
			return DROP_FRAGMENT_NOT_FOUND;
		if (is_icmp(flow->protocol)) {
			flow->icmp_type = bpf_ntohs(value->destination_port);
			if (is_echo_reply(flow))
				flow->destination_port = value->source_port;
			else
				flow->source_port = value->source_port;
			return 0;
		}
		flow->source_port = value->source_port;
		flow->destination_port = value->destination_port;
	}
	return 0;
}

static __always_inline bool is_link_local6(const struct mesh_address *address)
{
	return (address->words[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline bool is_unspecified6(const struct mesh_address *address)
{
	return !(address->words[0] | address->words[1] | address->words[2] | address->words[3]);
}

static __always_inline bool is_multicast6(const struct mesh_address *address)
{
	return (address->words[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

static __always_inline bool stays_on_link(const struct flow *flow)
{
	return (is_link_local6(&flow->source) || is_unspecified6(&flow->source)) &&
	       (is_link_local6(&flow->destination) || is_multicast6(&flow->destination));
}

/* Ports of a TCP or UDP header at `offset`, where it is; false, and flow as it was: something else is there. */
static __always_inline bool read_ports(const struct __sk_buff *ctx, __u32 offset, __u8 protocol, struct flow *flow)
{
	const void *end = (void *)(long)ctx->data_end;
	const __u8 *header = (void *)(long)ctx->data + offset;
	const __be16 *ports = (void *)header;

	if (protocol == IPPROTO_TCP) {
		if ((void *)(header + 14) > end)
			return false;
		flow->tcp_flags = header[13];
	} else if (protocol != IPPROTO_UDP || (void *)(ports + 2) > end) {
		return false;
	}
	flow->protocol = protocol;
	flow->source_port = ports[0];
	flow->destination_port = ports[1];
	flow->transport_offset = offset;
	return true;
}

/*
 * The usual packet, TCP or UDP with nothing unusual before it and all headers in one piece, read where it is: what costs
 * most in the careful way is its calls. False: that way decides.
 */
static __always_inline bool read_plain4(const struct __sk_buff *ctx, struct flow *flow)
{
	const struct iphdr *header = (void *)(long)ctx->data + ETH_HLEN;

	if ((void *)(header + 1) > (void *)(long)ctx->data_end || header->version != 4 || header->ihl != 5 ||
	    header->frag_off & bpf_htons(IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET))
		return false;
	if (!read_ports(ctx, ETH_HLEN + sizeof(*header), header->protocol, flow))
		return false;
	map_address4(&flow->source, header->saddr);
	map_address4(&flow->destination, header->daddr);
	return true;
}

static __always_inline bool read_plain6(const struct __sk_buff *ctx, struct flow *flow)
{
	const struct ipv6hdr *header = (void *)(long)ctx->data + ETH_HLEN;

	if ((void *)(header + 1) > (void *)(long)ctx->data_end || header->version != 6)
		return false;
	if (!read_ports(ctx, ETH_HLEN + sizeof(*header), header->nexthdr, flow))
		return false;
	__builtin_memcpy(&flow->source, &header->saddr, sizeof(flow->source));
	__builtin_memcpy(&flow->destination, &header->daddr, sizeof(flow->destination));
	return !is_mapped4(&flow->source) && !is_mapped4(&flow->destination);
}

static __always_inline int parse_headers(struct __sk_buff *ctx, struct flow *flow)
{
	struct network_end end = {};
	int reason;

	if (ctx->vlan_present)
		return DROP_UNSUPPORTED_PROTOCOL;
	if (ctx->protocol == bpf_htons(ETH_P_IP)) {
		if (read_plain4(ctx, flow))
			return 0;
		reason = parse_ipv4(ctx, ETH_HLEN, flow, &end);
	} else if (ctx->protocol == bpf_htons(ETH_P_IPV6)) {
		if (read_plain6(ctx, flow)) {
			if (stays_on_link(flow))
				flow->kind = FLOW_LINK_LOCAL;
			return 0;
		}
		reason = parse_ipv6(ctx, ETH_HLEN, flow, &end);
	} else {
		return DROP_UNSUPPORTED_PROTOCOL;
	}
	if (reason)
		return reason;
	flow->transport_offset = end.offset;
	flow->fragment = end.fragment;
	if (end.fragment != FRAGMENT_LATER) {
		reason = parse_transport(ctx, end.offset, flow);
		if (reason)
			return reason;
	}
	if (end.fragment != FRAGMENT_NONE) {
		reason = follow_fragments(flow, &end);
		if (reason)
			return reason;
	}
	if (stays_on_link(flow))
		flow->kind = FLOW_LINK_LOCAL;
	return 0;
}

static __always_inline int parse_inner_headers(struct __sk_buff *ctx, __u32 offset, struct flow *inner)
{
	struct network_end end = {};
	int reason;

	if (ctx->protocol == bpf_htons(ETH_P_IP))
		reason = parse_ipv4(ctx, offset, inner, &end);
	else
		reason = parse_ipv6(ctx, offset, inner, &end);
	if (reason)
		return reason;
	inner->transport_offset = end.offset;
	if (end.fragment == FRAGMENT_LATER)
		return DROP_FRAGMENT_NOT_FOUND;
	/* Only 8 bytes of the transport header are promised: no TCP flags. */
	if (inner->protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(ctx, end.offset, &inner->source_port, sizeof(__be32)))
			return DROP_INVALID_PACKET;
		return 0;
	}
	return parse_transport(ctx, end.offset, inner);
}

#endif
