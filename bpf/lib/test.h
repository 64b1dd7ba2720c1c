/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Test builds only: a map in place of tunnel metadata and of the redirect that a test run cannot show. */
#ifndef MESH_TEST_H
#define MESH_TEST_H

#include "common.h"

#define TEST_REDIRECT 1
#define TEST_REDIRECT_PEER 2
#define TEST_REDIRECT_NEIGHBOUR 3

/* What the kernel returns for a packet without tunnel metadata, and for those of another family. */
#define TEST_EINVAL 22
#define TEST_EPROTO 71

struct mesh_test {
	/* In: what skb_get_tunnel_key finds. remote is empty when the packet came through no tunnel. */
	__u32 in_vni;
	struct mesh_address in_remote;
	/* Out. */
	__u32 out_vni;
	struct mesh_address out_remote;
	__u32 redirect_kind;
	__u32 redirect_ifindex;
	__u64 out_flags;
	/* In: what fib_lookup() finds, and its result. The destination of the packet is taken for the next hop. */
	__u32 in_route_ifindex;
	__u32 in_route_result;
};
ASSERT_SIZE(struct mesh_test, 64);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mesh_test);
} mesh_test SEC(".maps");

static __always_inline struct mesh_test *test_state(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&mesh_test, &zero);
}

/* As the kernel does, fails when the family asked for is not that of the tunnel. */
static __always_inline long skb_get_tunnel_key(struct __sk_buff *ctx, struct bpf_tunnel_key *key, __u32 size,
					       __u64 flags)
{
	const struct mesh_test *test = test_state();

	if (!test || !(test->in_remote.words[0] | test->in_remote.words[3]))
		return -TEST_EINVAL;
	if (is_mapped4(&test->in_remote) != !(flags & BPF_F_TUNINFO_IPV6))
		return -TEST_EPROTO;
	key->tunnel_id = test->in_vni;
	if (flags & BPF_F_TUNINFO_IPV6)
		__builtin_memcpy(key->remote_ipv6, test->in_remote.words, sizeof(key->remote_ipv6));
	else
		key->remote_ipv4 = bpf_ntohl(test->in_remote.words[3]);
	return 0;
}

static __always_inline long skb_set_tunnel_key(struct __sk_buff *ctx, struct bpf_tunnel_key *key, __u32 size,
					       __u64 flags)
{
	struct mesh_test *test = test_state();

	if (!test)
		return -1;
	test->out_vni = key->tunnel_id;
	test->out_flags = flags;
	if (flags & BPF_F_TUNINFO_IPV6)
		__builtin_memcpy(test->out_remote.words, key->remote_ipv6, sizeof(key->remote_ipv6));
	else
		map_address4(&test->out_remote, bpf_htonl(key->remote_ipv4));
	return 0;
}

static __always_inline long test_redirect(__u32 kind, __u32 ifindex)
{
	struct mesh_test *test = test_state();

	if (!test)
		return TC_ACT_SHOT;
	test->redirect_kind = kind;
	test->redirect_ifindex = ifindex;
	return TC_ACT_REDIRECT;
}

static __always_inline long fib_lookup(struct __sk_buff *ctx, struct bpf_fib_lookup *route, __u32 size, __u32 flags)
{
	const struct mesh_test *test = test_state();

	if (!test)
		return BPF_FIB_LKUP_RET_BLACKHOLE;
	route->ifindex = test->in_route_ifindex;
	return test->in_route_result;
}

#define redirect_to(ifindex, flags) test_redirect(TEST_REDIRECT, ifindex)
#define redirect_to_peer(ifindex, flags) test_redirect(TEST_REDIRECT_PEER, ifindex)
#define redirect_to_neighbour(ifindex, next, size, flags) test_redirect(TEST_REDIRECT_NEIGHBOUR, ifindex)

#endif
