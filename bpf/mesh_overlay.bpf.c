// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* Ingress of the VXLAN device: what other nodes send, the sender's identity in the VNI. */
#include "lib/common.h"
#include "lib/config.h"
#include "lib/deliver.h"
#include "lib/endpoints.h"
#include "lib/flow.h"
#include "lib/host.h"
#include "lib/ipcache.h"
#include "lib/metrics.h"
#include "lib/nat.h"
#include "lib/policy.h"
#include "lib/trace.h"

struct tunnel {
	/* Of the sender. */
	__u32 identity;
	/* Underlay address of the node that it came from. */
	struct mesh_address remote;
};

/* Reserved identities that nodes send for others: world (2, 9, 10), health, init, remote-node, kube-apiserver, ingress. */
#define SENT_BY_NODES (1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10)
/* Beyond those are the well-known ones of a cluster's own services (Cilium pkg/identity/numericidentity.go). */
#define FIRST_WELL_KNOWN 100

/* Of linux/if_packet.h. */
#define PACKET_HOST 0

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

static __always_inline bool is_node(const struct mesh_ipcache_value *entry)
{
	return entry && (entry->identity == IDENTITY_REMOTE_NODE || entry->identity == IDENTITY_KUBE_APISERVER ||
			 entry->identity >= IDENTITY_FIRST_OF_NODES);
}

/* A machine of a mesh that is no node, and has a tunnel of its own. */
static __always_inline bool is_machine(const struct mesh_ipcache_value *entry, const struct mesh_address *address)
{
	return entry && (entry->flags & IPCACHE_HAS_TUNNEL) && same_address(&entry->tunnel_endpoint, address);
}

/* May a node of this cluster send under this identity? Returns 0 or the reason to drop. */
static __always_inline int check_identity(__u32 identity, __u16 cluster_id, const struct mesh_config *config)
{
	if (identity >= IDENTITY_FIRST_ALLOCATED)
		return identity >> (config->cluster_shift & 31) == cluster_id ? 0 : DROP_OVERLAY_CLUSTER_MISMATCH;
	if (identity < 32 ? SENT_BY_NODES >> identity & 1 :
			    identity >= FIRST_WELL_KNOWN && cluster_id == config->cluster_id)
		return 0;
	return DROP_INVALID_IDENTITY;
}

/*
 * An address of this node or of one of its endpoints, of which nobody outside speaks as the sender. One that is known to
 * be behind the node that sent it is none: no need to look.
 */
static __always_inline bool is_ours(const struct mesh_config *config, const struct mesh_address *address,
				    const struct mesh_ipcache_value *entry, const struct mesh_address *node)
{
	if (entry && (entry->flags & IPCACHE_HAS_TUNNEL) && same_address(&entry->tunnel_endpoint, node))
		return false;
	if (lookup_endpoint(address) || (config->flags & CONFIG_MACHINE && is_own_address(config, address, entry)))
		return true;
	return entry && !entry->cluster_id && entry->identity < IDENTITY_FIRST_ALLOCATED &&
	       entry->identity != IDENTITY_WORLD;
}

/* Whether the inner source lives behind the node that sent it. A node's own addresses do, behind any of its own. */
static __always_inline int check_place(const struct mesh_ipcache_value *entry, const struct mesh_address *node)
{
	if (!entry)
		return DROP_OVERLAY_SOURCE_UNKNOWN;
	if (entry->flags & IPCACHE_HAS_TUNNEL)
		return same_address(&entry->tunnel_endpoint, node) ? 0 : DROP_OVERLAY_SOURCE_MISMATCH;
	return is_node(entry) ? 0 : DROP_OVERLAY_SOURCE_MISMATCH;
}

/*
 * Whether an address is one of a machine of these labels: its own, or that of an endpoint which its cluster has put behind it. It
 * may have an address of each family, and tunnel from either.
 */
static __always_inline bool is_of_machine(const struct flow *flow, const struct mesh_ipcache_value *entry,
					  const struct mesh_ipcache_value *machine)
{
	const struct mesh_ipcache_value *host;

	if (is_machine(entry, &flow->source))
		return entry->identity == machine->identity;
	if (!(entry->flags & IPCACHE_HAS_TUNNEL))
		return false;
	host = lookup_ipcache(&entry->tunnel_endpoint);
	return is_machine(host, &entry->tunnel_endpoint) && host->identity == machine->identity &&
	       host->cluster_id == machine->cluster_id;
}

/*
 * A machine sends for itself and for the endpoints behind it: under an address that its cluster has published so, and under
 * the identity that is published with it, or as the world's what it passes on. Returns 0 or the reason to drop.
 */
static __always_inline int check_machine(const struct flow *flow, struct tunnel *tunnel,
					 const struct mesh_ipcache_value *entry, const struct mesh_ipcache_value *machine)
{
	if (!entry)
		return DROP_OVERLAY_SOURCE_UNKNOWN;
	if (entry->cluster_id != machine->cluster_id)
		return DROP_OVERLAY_SOURCE_CLUSTER;
	if (!is_of_machine(flow, entry, machine))
		return DROP_OVERLAY_SOURCE_MISMATCH;
	if (tunnel->identity != IDENTITY_WORLD)
		tunnel->identity = entry->identity;
	return 0;
}

/*
 * Is the sender who it says? That the outer source can be believed is the underlay's business: this stops strangers and
 * mistakes, not somebody who forges addresses there. What is not known yet of an inner source (a pod younger than its
 * entry's way to here) is no reason to drop, but in strict mode.
 */
static __always_inline int check_source(const struct flow *flow, struct tunnel *tunnel,
					const struct mesh_ipcache_value *entry, const struct mesh_config *config)
{
	const struct mesh_ipcache_value *node;
	int reason;

	if (config->overlay_source_check == OVERLAY_SOURCE_OFF)
		return 0;
	node = lookup_ipcache(&tunnel->remote);
	if (!node || (!is_node(node) && !is_machine(node, &tunnel->remote)))
		return DROP_OVERLAY_NODE_UNKNOWN;
	reason = check_identity(tunnel->identity, node->cluster_id, config);
	if (reason)
		return reason;
	if (is_ours(config, &flow->source, entry, &tunnel->remote))
		return DROP_OVERLAY_SOURCE_OURS;
	if (!is_node(node))
		return check_machine(flow, tunnel, entry, node);
	if (entry && entry->cluster_id && entry->cluster_id != node->cluster_id)
		return DROP_OVERLAY_SOURCE_CLUSTER;
	return config->overlay_source_check == OVERLAY_SOURCE_STRICT ? check_place(entry, &tunnel->remote) : 0;
}

/*
 * A sender that only says "some node" or "an API server" is known better by its address, as in Cilium's bpf_overlay.c.
 * Nobody becomes this node's host in that way, whom policy always lets pass.
 */
static __always_inline __u32 sender_identity(const struct tunnel *tunnel, const struct mesh_ipcache_value *entry)
{
	bool is_some_node = tunnel->identity == IDENTITY_REMOTE_NODE || tunnel->identity == IDENTITY_KUBE_APISERVER;

	return is_some_node && entry && entry->identity != IDENTITY_HOST ? entry->identity : tunnel->identity;
}

/*
 * Does this packet from the tunnel answer something that the node has sent? New calls to its own servers come by the
 * underlay, where its firewall sees them. TCP that opens nothing is for the node's stack to judge, which knows its
 * connections longer than connection tracking does.
 */
static __always_inline bool host_expects(const struct flow *flow)
{
	/* judge() finds out what an error is about. */
	if (flow->kind == FLOW_ICMP_ERROR)
		return true;
	if (flow->protocol == IPPROTO_TCP && !ct_is_opening(flow))
		return true;
	return ct_find_answered(flow, DIRECTION_INGRESS, now_ns()) != NULL;
}

/*
 * Lets the stack have a packet for an address of this host; the sender is `identity`. A machine is called as a pod is, and
 * its policy judges that. Returns 0 or the reason to drop.
 */
static __always_inline int enter_host(struct __sk_buff *ctx, struct flow *flow, const struct mesh_config *config,
				      __u32 identity)
{
	bool is_judged = config->flags & CONFIG_HOST_JUDGED;
	bool is_called = is_judged && config->flags & CONFIG_MACHINE;
	int reason;

	if (!is_called && !host_expects(flow))
		return DROP_NO_ENDPOINT;
	if (is_judged)
		reason = judge_host(ctx, DIRECTION_INGRESS, identity);
	else
		reason = track_host(ctx, DIRECTION_INGRESS, identity);
	if (reason)
		return reason;
	if (!is_called && flow->kind == FLOW_ICMP_ERROR && flow->state != FLOW_STATE_RELATED)
		return DROP_NO_ENDPOINT;
	/* The inner frame was made for some endpoint's gateway. */
	return bpf_skb_change_type(ctx, PACKET_HOST) ? DROP_INVALID_PACKET : 0;
}

/* What is for the host's own programs. */
static __always_inline int to_this_host(struct __sk_buff *ctx, struct flow *flow, const struct tunnel *tunnel,
					const struct mesh_config *config)
{
	int reason = DROP_NO_ENDPOINT;

	flow->node = tunnel->remote;
	if (is_own_address(config, &flow->destination, lookup_ipcache(&flow->destination)))
		reason = enter_host(ctx, flow, config, tunnel->identity);
	if (reason)
		return drop_host(ctx, reason, DIRECTION_INGRESS, tunnel->identity);
	trace_host(ctx, COUNT_PASSED_TO_STACK, DIRECTION_INGRESS, tunnel->identity);
	count(COUNT_PASSED_TO_STACK, DIRECTION_INGRESS, ctx->len);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int mesh_from_overlay(struct __sk_buff *ctx)
{
	const struct mesh_config *config = lookup_config();
	struct scratch *scratch = lookup_scratch();
	const struct mesh_ipcache_value *entry;
	const struct mesh_endpoint *destination;
	struct tunnel tunnel = {};
	struct flow *flow;
	int reason;

	if (!config)
		return drop(ctx, DROP_NO_CONFIG, DIRECTION_INGRESS);
	reason = read_tunnel(ctx, &tunnel);
	if (reason)
		return drop_flow(ctx, reason, DIRECTION_INGRESS, tunnel.identity, 0, 0);
	reason = parse_packet(ctx);
	if (!scratch || reason)
		return drop_flow(ctx, reason, DIRECTION_INGRESS, tunnel.identity, 0, 0);
	flow = &scratch->flow;
	/* Addresses of a link, and neighbour discovery above all, mean nothing beyond it. */
	if (flow->kind == FLOW_LINK_LOCAL)
		return drop_flow(ctx, DROP_UNSUPPORTED_PROTOCOL, DIRECTION_INGRESS, tunnel.identity, 0, 0);
	entry = lookup_ipcache(&flow->source);
	reason = check_source(flow, &tunnel, entry, config);
	if (reason)
		return drop_flow(ctx, reason, DIRECTION_INGRESS, tunnel.identity, 0, 0);
	tunnel.identity = sender_identity(&tunnel, entry);
	destination = lookup_endpoint(&flow->destination);
	if (!destination) {
		/* Answers to calls from outside that this node has passed on under its own address. */
		reason = nat_overlay_ingress(ctx);
		if (reason == TC_ACT_REDIRECT)
			return reason;
		if (!reason)
			return to_this_host(ctx, flow, &tunnel, config);
		return drop_flow(ctx, reason, DIRECTION_INGRESS, tunnel.identity, 0, 0);
	}
	flow->node = tunnel.remote;
	reason = judge(ctx, destination, DIRECTION_INGRESS, tunnel.identity);
	if (reason)
		return drop_flow(ctx, reason, DIRECTION_INGRESS, tunnel.identity, destination->identity,
				 destination->endpoint_id);
	reason = nat_to_endpoint(ctx, flow);
	if (reason)
		return drop_flow(ctx, reason, DIRECTION_INGRESS, tunnel.identity, destination->identity,
				 destination->endpoint_id);
	trace(ctx, flow, COUNT_FORWARDED, DIRECTION_INGRESS, tunnel.identity, destination->identity,
	      destination->endpoint_id);
	return deliver(ctx, destination);
}

char _license[] SEC("license") = "GPL";
