/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Where packets leave the programs. What a test run cannot supply goes through a macro, replaced in test builds. */
#ifndef MESH_DELIVER_H
#define MESH_DELIVER_H

#include "common.h"
#include "endpoints.h"
#include "metrics.h"

#ifdef MESH_TEST
#include "test.h"
#else
#define skb_get_tunnel_key bpf_skb_get_tunnel_key
#define skb_set_tunnel_key bpf_skb_set_tunnel_key
#define redirect_to bpf_redirect
#define redirect_to_peer bpf_redirect_peer
#define redirect_to_neighbour bpf_redirect_neigh
#define fib_lookup bpf_fib_lookup
#endif

/* Needs the macros above. */
#include "too_big.h"

#define TUNNEL_TTL 64

/* Into the endpoint, past the host side of its veth: the egress hook there does not see the packet. */
static __always_inline int deliver(struct __sk_buff *ctx, const struct mesh_endpoint *endpoint)
{
	__u32 ifindex = endpoint->ifindex;

	if (bpf_skb_store_bytes(ctx, 0, endpoint->mac, sizeof(endpoint->mac), 0))
		return drop_flow(ctx, DROP_INVALID_PACKET, DIRECTION_INGRESS, 0, endpoint->identity,
				 endpoint->endpoint_id);
	count(COUNT_FORWARDED, DIRECTION_INGRESS, ctx->len);
	return redirect_to_peer(ifindex, 0);
}

/* Says where the tunnel device is to send the packet: to the node `remote`, the sender's identity in the VNI. */
static __always_inline long set_tunnel(struct __sk_buff *ctx, const struct mesh_address *remote, __u32 identity)
{
	struct bpf_tunnel_key key = { .tunnel_id = identity, .tunnel_ttl = TUNNEL_TTL };
	/* No outer UDP checksum over IPv4, where the inner ones do; IPv6 receivers refuse datagrams without. */
	__u64 flags = BPF_F_ZERO_CSUM_TX;

	if (is_mapped4(remote)) {
		key.remote_ipv4 = bpf_ntohl(remote->words[3]);
	} else {
		flags = BPF_F_TUNINFO_IPV6;
		__builtin_memcpy(key.remote_ipv6, remote->words, sizeof(key.remote_ipv6));
	}
	return skb_set_tunnel_key(ctx, &key, sizeof(key), flags);
}

/*
 * To the node `remote`, the sender's identity in the VNI. A packet that does not fit is answered the way that `way` says
 * (enum answer_way): so what rewrites a packet first has to ask is_too_big() before, or the sender would be told of a
 * packet that it does not know.
 */
static __always_inline int encapsulate(struct __sk_buff *ctx, const struct mesh_config *config, const struct flow *flow,
				       const struct mesh_address *remote, __u32 identity, __u32 way)
{
	if (is_too_big(ctx, flow, config->tunnel_mtu))
		return answer_too_big(ctx, config->tunnel_mtu, identity, way);
	if (set_tunnel(ctx, remote, identity))
		return drop_flow(ctx, DROP_TUNNEL_FAILED, DIRECTION_EGRESS, identity, 0, 0);
	count(COUNT_FORWARDED_OVERLAY, DIRECTION_EGRESS, ctx->len);
	return redirect_to(config->tunnel_ifindex, 0);
}

#endif
