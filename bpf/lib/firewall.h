/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The host as its own firewall (host policy `full`): all that its programs send and get by its own devices is judged by its
 * policies, whoever is at the other end. What no policy takes away is said once, in agent/host-firewall/fixed-rules.ts: calls
 * by address and port stand in a map, what has no ports is below, in is_fixed().
 */
#ifndef MESH_FIREWALL_H
#define MESH_FIREWALL_H

#include "common.h"
#include "conntrack.h"
#include "flow.h"
#include "host.h"
#include "too_big.h"

/* Of linux/if_packet.h: a frame for somebody else's hardware address, which the stack does not take. */
#define PACKET_OTHERHOST 3
#define VLAN_ID_MASK 0x0fff

#define ICMP6_MLD_FIRST 130
#define ICMP6_MLD_LAST 132
#define ICMP6_MLD2_REPORT 143

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mesh_firewall);
} mesh_firewall SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, struct mesh_firewall_key);
	__type(value, __u32);
} mesh_firewall_open SEC(".maps");

/*
 * Whether the host is a firewall now. Trying it out ends by itself, whatever has become of the agent: the first packet after
 * that switches it off.
 */
static __always_inline bool firewall_holds(void)
{
	__u32 zero = 0;
	const struct mesh_firewall *firewall = bpf_map_lookup_elem(&mesh_firewall, &zero);
	struct mesh_config *config;

	if (!firewall || !firewall->until_ns || now_ns() < firewall->until_ns)
		return true;
	config = bpf_map_lookup_elem(&mesh_config, &zero);
	if (config)
		config->flags &= ~CONFIG_FIREWALL;
	return false;
}

/*
 * Whether the packet of mesh_scratch is one of a call that is always allowed. An answer of TCP counts by its port, since the
 * call may be older than what connection tracking knows, and it opens nothing; other answers are known by their call.
 */
__noinline int is_fixed_call(__u32 direction)
{
	const struct scratch *scratch = lookup_scratch();
	struct mesh_firewall_key key = { .direction = direction };
	const struct flow *flow;
	bool may_answer;

	if (!scratch)
		return 0;
	flow = &scratch->flow;
	may_answer = flow->protocol == IPPROTO_TCP && !ct_is_opening(flow);
	key.port = flow->destination_port;
	key.protocol = flow->protocol;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 4; i++) {
		if (bpf_map_lookup_elem(&mesh_firewall_open, &key))
			return 1;
		if (i == 1) {
			if (!may_answer)
				return 0;
			key.direction = opposite(direction);
			key.port = flow->source_port;
			__builtin_memset(&key.peer, 0, sizeof(key.peer));
		} else {
			key.peer = direction == DIRECTION_INGRESS ? flow->source : flow->destination;
		}
	}
	return 0;
}

/* The client's side of DHCP, of either family. */
static __always_inline bool is_lease_call(const struct flow *flow, __u32 direction)
{
	bool enters = direction == DIRECTION_INGRESS;
	__be16 own = enters ? flow->destination_port : flow->source_port;
	__be16 other = enters ? flow->source_port : flow->destination_port;

	return (own == bpf_htons(68) && other == bpf_htons(67)) || (own == bpf_htons(546) && other == bpf_htons(547));
}

/* "Fragmentation needed": the code of the message tells it from other errors. */
static __always_inline bool is_too_big4(struct __sk_buff *ctx, const struct flow *flow)
{
	__u8 code = 0;

	return flow->icmp_type == ICMP_DESTINATION_UNREACHABLE && flow->fragment == FRAGMENT_NONE &&
	       !bpf_skb_load_bytes(ctx, flow->transport_offset + 1, &code, sizeof(code)) &&
	       code == ICMP_FRAGMENTATION_NEEDED;
}

static __always_inline bool is_link_upkeep6(__u8 type)
{
	return (type >= ICMP6_NEIGHBOUR_FIRST && type <= ICMP6_NEIGHBOUR_LAST) ||
	       (type >= ICMP6_MLD_FIRST && type <= ICMP6_MLD_LAST) || type == ICMP6_MLD2_REPORT;
}

/* What no policy of the host denies. */
static __always_inline bool is_fixed(struct __sk_buff *ctx, const struct flow *flow, __u32 direction, __u32 identity)
{
	switch (flow->protocol) {
	case IPPROTO_ICMP:
		return is_too_big4(ctx, flow);
	case IPPROTO_ICMPV6:
		return flow->icmp_type == ICMP6_PACKET_TOO_BIG || is_link_upkeep6(flow->icmp_type);
	case IPPROTO_IGMP:
		return true;
	case IPPROTO_UDP:
		if (is_lease_call(flow, direction) || (is_of_tunnel(flow) && is_of_mesh(identity)))
			return true;
		break;
	case IPPROTO_TCP:
		if (is_mesh_service(flow, direction, identity))
			return true;
		break;
	default:
		return false;
	}
	return is_fixed_call(direction);
}

/* judge_host() of a firewall. */
__noinline int judge_firewall(struct __sk_buff *ctx, __u32 direction, __u32 identity)
{
	const struct mesh_endpoint *row = lookup_host();
	struct scratch *scratch = lookup_scratch();
	bool is_open;

	if (!row || !scratch)
		return 0;
	is_open = is_fixed(ctx, &scratch->flow, direction, identity);
	return judge_by_row(ctx, row, is_open, direction, identity);
}

/*
 * What others send through the host under its own address (masquerading) is not the host's; its answers come to the host's
 * address all the same. Such flows are remembered under keys of their own, as egress with this in their first pad byte.
 */
#define CT_PASSED_ON 1

/* Whether the stack would keep an answer to the packet of mesh_scratch, as it leaves by `ifindex`. */
static __always_inline bool is_under_own_address(struct __sk_buff *ctx, const struct flow *flow)
{
	struct bpf_fib_lookup route = { .ifindex = ctx->ifindex };

	if (is_mapped4(&flow->source)) {
		route.family = AF_INET;
		route.ipv4_src = flow->destination.words[3];
		route.ipv4_dst = flow->source.words[3];
	} else {
		route.family = AF_INET6;
		__builtin_memcpy(route.ipv6_src, flow->destination.words, sizeof(route.ipv6_src));
		__builtin_memcpy(route.ipv6_dst, flow->source.words, sizeof(route.ipv6_dst));
	}
	return fib_lookup(ctx, &route, sizeof(route), 0) == BPF_FIB_LKUP_RET_NOT_FWDED;
}

/* Remembers what the host passes on, where an answer would come to its own address. Never drops. */
__noinline int note_passed_on(struct __sk_buff *ctx)
{
	struct scratch *scratch = lookup_scratch();
	struct mesh_ct_value *value;
	struct mesh_ct_key key;
	const struct flow *flow;
	__u64 now = now_ns();
	__u8 flags;

	if (!scratch)
		return 0;
	flow = &scratch->flow;
	/* What answers a call to a port that the host passes on (DNAT) is of the flow that was let in. */
	if (flow->kind != FLOW_PLAIN || ct_find_answered(flow, DIRECTION_EGRESS, now))
		return 0;
	ct_forward_key(&key, flow, DIRECTION_EGRESS);
	key.pad[0] = CT_PASSED_ON;
	value = ct_lookup(&key, now);
	if (value) {
		flags = value->flags;
		if (flow->tcp_flags & TCP_FIN)
			flags |= CT_FIN_FORWARD;
		if (flow->tcp_flags & TCP_RST)
			flags |= CT_RESET;
		if (ct_is_opening(flow))
			flags = 0;
		else if (flags & CT_REPLIED)
			flags |= CT_ESTABLISHED;
		ct_refresh(value, flow->protocol, flags, now);
		return 0;
	}
	flags = 0;
	if (flow->protocol == IPPROTO_TCP && !ct_is_opening(flow)) {
		/* A connection that is older than the firewall, and one that leads out. */
		if (looks_like_answer(flow))
			return 0;
		flags = CT_REPLIED | CT_ESTABLISHED;
	}
	if (is_under_own_address(ctx, flow)) {
		struct mesh_ct_value fresh = {
			.expires_ns = now + ct_lifetime(flow->protocol, flags),
			.flags = flags,
		};

		bpf_map_update_elem(&mesh_ct, &key, &fresh, BPF_ANY);
	}
	return 0;
}

/* Whether the packet of mesh_scratch answers one that the host has passed on, or is an error about one. */
__noinline int answers_passed_on(struct __sk_buff *ctx)
{
	struct scratch *scratch = lookup_scratch();
	struct mesh_ct_value *value;
	const struct flow *flow;
	struct mesh_ct_key key;
	__u64 now = now_ns();
	__u8 flags;

	if (!scratch)
		return 0;
	flow = &scratch->flow;
	if (flow->kind == FLOW_ICMP_ERROR) {
		const struct flow *inner = parse_inner_flow(ctx, flow);

		if (!inner)
			return 0;
		ct_forward_key(&key, inner, DIRECTION_EGRESS);
		key.pad[0] = CT_PASSED_ON;
		return ct_lookup(&key, now) != NULL;
	}
	ct_reverse_key(&key, flow, DIRECTION_EGRESS);
	key.pad[0] = CT_PASSED_ON;
	value = ct_lookup(&key, now);
	if (!value || ct_is_opening(flow))
		return 0;
	flags = value->flags | CT_REPLIED;
	if (flow->tcp_flags & TCP_FIN)
		flags |= CT_FIN_REPLY;
	if (flow->tcp_flags & TCP_RST)
		flags |= CT_RESET;
	ct_refresh(value, flow->protocol, flags, now);
	return 1;
}

/*
 * The stack takes a frame with a priority and no VLAN (802.1p) for one without a tag: so it is to be judged as one. Returns
 * whether there is still a tag before what the stack would read.
 */
static __always_inline bool is_tagged(struct __sk_buff *ctx)
{
	if (!ctx->vlan_present)
		return false;
	if (ctx->vlan_tci & VLAN_ID_MASK)
		return true;
	bpf_skb_vlan_pop(ctx);
	return false;
}

/* Whether the packet of mesh_scratch is for the host, alone or with others. */
static __always_inline bool is_for_host(struct __sk_buff *ctx, const struct flow *flow)
{
	return flow->kind == FLOW_LINK_LOCAL || is_multicast(&flow->destination) || enters_host(ctx);
}

/* A packet that cannot be read, or is none of IP: see pass_firewall(). */
static __always_inline int refuse_unread_full(struct __sk_buff *ctx, const struct mesh_config *config,
					      const struct flow *flow, __u32 reason, __u32 direction)
{
	bool enters = direction == DIRECTION_INGRESS;

	if (reason == DROP_FRAGMENT_NOT_FOUND || !is_host_closed(config, direction))
		return TC_ACT_UNSPEC;
	if (ctx->protocol == bpf_htons(ETH_P_8021Q) || ctx->protocol == bpf_htons(ETH_P_8021AD)) {
		/* Another tag behind one without a VLAN, which the stack would take off, too. */
		return enters ? drop_host(ctx, reason, direction, 0) : TC_ACT_UNSPEC;
	}
	if (ctx->protocol != bpf_htons(ETH_P_IP) && ctx->protocol != bpf_htons(ETH_P_IPV6))
		return TC_ACT_UNSPEC;
	if (enters && !is_for_host(ctx, flow))
		return TC_ACT_UNSPEC;
	return drop_host(ctx, reason, direction, identity_of(enters ? &flow->source : &flow->destination));
}

/*
 * The firewall. Returns TC_ACT_UNSPEC for what passes, and for what is not the host's: what it passes on, and what is not IP.
 * What has many receivers is judged as well, by who sends it or as the network that it goes to.
 */
static __always_inline int pass_firewall(struct __sk_buff *ctx, __u32 direction)
{
	const struct mesh_config *config = lookup_config();
	struct scratch *scratch = lookup_scratch();
	bool enters = direction == DIRECTION_INGRESS;
	struct flow *flow;
	__u32 identity;
	int reason;

	if (!config || !scratch || !firewall_holds())
		return TC_ACT_UNSPEC;
	if (enters && (ctx->pkt_type == PACKET_OTHERHOST || is_tagged(ctx)))
		return TC_ACT_UNSPEC;
	reason = parse_packet(ctx);
	flow = &scratch->flow;
	if (!enters && ctx->ingress_ifindex) {
		if (!reason)
			note_passed_on(ctx);
		return TC_ACT_UNSPEC;
	}
	if (reason)
		return refuse_unread_full(ctx, config, flow, reason, direction);
	if (enters && (!is_for_host(ctx, flow) || answers_passed_on(ctx)))
		return TC_ACT_UNSPEC;
	/* Who is on the link is a stranger as well, but for what keeps the link up. */
	if (flow->kind == FLOW_LINK_LOCAL && !(flow->protocol == IPPROTO_ICMPV6 && is_link_upkeep6(flow->icmp_type)))
		flow->kind = FLOW_PLAIN;
	identity = identity_of(enters ? &flow->source : &flow->destination);
	reason = judge_firewall(ctx, direction, identity);
	if (reason)
		return drop_host(ctx, reason, direction, identity);
	trace_host(ctx, enters ? COUNT_PASSED_TO_STACK : COUNT_FORWARDED, direction, identity);
	return TC_ACT_UNSPEC;
}

/* What comes to one of the host's devices, and what leaves by it. Functions of their own, which are not the usual way. */
__noinline int pass_firewall_in(struct __sk_buff *ctx)
{
	return pass_firewall(ctx, DIRECTION_INGRESS);
}

__noinline int pass_firewall_out(struct __sk_buff *ctx)
{
	return pass_firewall(ctx, DIRECTION_EGRESS);
}

#endif
