// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* Ingress of the VXLAN device: what other nodes send, the sender's identity in the VNI. */
#include "lib/common.h"
#include "lib/config.h"
#include "lib/deliver.h"
#include "lib/endpoints.h"
#include "lib/flow.h"
#include "lib/ipcache.h"
#include "lib/metrics.h"
#include "lib/policy.h"

struct tunnel {
	__u32 identity;
	struct mesh_address remote;
};

static __always_inline int read_tunnel(struct __sk_buff *ctx, struct tunnel *tunnel)
{
	struct bpf_tunnel_key key = {};

	if (!skb_get_tunnel_key(ctx, &key, sizeof(key), 0)) {
		map_address4(&tunnel->remote, bpf_htonl(key.remote_ipv4));
	} else if (!skb_get_tunnel_key(ctx, &key, sizeof(key), BPF_F_TUNINFO_IPV6)) {
		__builtin_memcpy(tunnel->remote.words, key.remote_ipv6, sizeof(key.remote_ipv6));
	} else {
		return DROP_NO_TUNNEL_KEY;
	}
	tunnel->identity = key.tunnel_id;
	/* No other node may speak as our host; 0 would match rules for any identity only by accident. */
	if (tunnel->identity == 0 || tunnel->identity == IDENTITY_HOST)
		return DROP_INVALID_IDENTITY;
	return 0;
}

/*
 * The inner source must live behind the node that the packet came from, in the cluster that the VNI names. A sender that
 * only says "some node" or "an API server" is known better by its address, as in Cilium's bpf_overlay.c.
 */
static __always_inline int check_source(const struct flow *flow, struct tunnel *tunnel,
					const struct mesh_config *config)
{
	const struct mesh_ipcache_value *entry = lookup_ipcache(&flow->source);

	if (!entry)
		return DROP_OVERLAY_SOURCE_UNKNOWN;
	if (!(entry->flags & IPCACHE_HAS_TUNNEL) || !same_address(&entry->tunnel_endpoint, &tunnel->remote))
		return DROP_OVERLAY_SOURCE_MISMATCH;
	if (tunnel->identity >= IDENTITY_FIRST_ALLOCATED &&
	    tunnel->identity >> (config->cluster_shift & 31) != entry->cluster_id)
		return DROP_OVERLAY_CLUSTER_MISMATCH;
	if (tunnel->identity == IDENTITY_REMOTE_NODE || tunnel->identity == IDENTITY_KUBE_APISERVER)
		tunnel->identity = entry->identity;
	return 0;
}

SEC("tc")
int mesh_from_overlay(struct __sk_buff *ctx)
{
	const struct mesh_config *config = lookup_config();
	const struct mesh_endpoint *destination;
	struct tunnel tunnel = {};
	struct flow flow = {};
	int reason;

	if (!config)
		return drop(ctx, DROP_NO_CONFIG, DIRECTION_INGRESS);
	reason = read_tunnel(ctx, &tunnel);
	if (reason)
		return drop(ctx, reason, DIRECTION_INGRESS);
	reason = parse_flow(ctx, &flow);
	if (reason)
		return drop(ctx, reason, DIRECTION_INGRESS);
	/* Addresses of a link, and neighbour discovery above all, mean nothing beyond it. */
	if (flow.kind == FLOW_LINK_LOCAL)
		return drop(ctx, DROP_UNSUPPORTED_PROTOCOL, DIRECTION_INGRESS);
	reason = check_source(&flow, &tunnel, config);
	if (reason)
		return drop(ctx, reason, DIRECTION_INGRESS);
	destination = lookup_endpoint(&flow.destination);
	if (!destination)
		return drop(ctx, DROP_NO_ENDPOINT, DIRECTION_INGRESS);
	reason = judge(ctx, &flow, destination, DIRECTION_INGRESS, tunnel.identity);
	if (reason)
		return drop(ctx, reason, DIRECTION_INGRESS);
	return deliver(ctx, destination);
}

char _license[] SEC("license") = "GPL";
