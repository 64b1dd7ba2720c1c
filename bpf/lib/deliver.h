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
#endif

#define TUNNEL_TTL 64

/* Into the endpoint, past the host side of its veth: the egress hook there does not see the packet. */
static __always_inline int deliver(struct __sk_buff *ctx, const struct mesh_endpoint *endpoint)
{
	__u32 ifindex = endpoint->ifindex;

	if (bpf_skb_store_bytes(ctx, 0, endpoint->mac, sizeof(endpoint->mac), 0))
		return drop(ctx, DROP_INVALID_PACKET, DIRECTION_INGRESS);
	count(COUNT_FORWARDED, DIRECTION_INGRESS, ctx->len);
	return redirect_to_peer(ifindex, 0);
}

/* To the node `remote`, the sender's identity in the VNI. */
static __always_inline int encapsulate(struct __sk_buff *ctx, __u32 tunnel_ifindex,
				       const struct mesh_address *remote, __u32 identity)
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
	if (skb_set_tunnel_key(ctx, &key, sizeof(key), flags))
		return drop(ctx, DROP_TUNNEL_FAILED, DIRECTION_EGRESS);
	count(COUNT_FORWARDED_OVERLAY, DIRECTION_EGRESS, ctx->len);
	return redirect_to(tunnel_ifindex, 0);
}

#endif
