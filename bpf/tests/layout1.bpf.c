// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The maps of the first layout, byte for byte as the first releases had them, under programs that use each of them: what
 * an upgrade finds on a node. For tests of agent/datapath/migration.ts; no part of the datapath, and never to be changed.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TC_ACT_UNSPEC (-1)
#define PROCEED 1

struct address {
	__be32 words[4];
};

struct prefix4 {
	__u32 prefixlen;
	__be32 address;
};

struct prefix6 {
	__u32 prefixlen;
	struct address address;
};

struct place {
	__u32 identity;
	struct address tunnel_endpoint;
	__u16 cluster_id;
	__u8 flags;
	__u8 pad;
};

struct endpoint {
	__u32 ifindex;
	__u32 identity;
	__u16 endpoint_id;
	__u16 flags;
	__u8 mac[6];
	__u8 pad[2];
	__u8 interface[16];
};

struct policy_key {
	__u32 prefixlen;
	__u32 identity;
	__u16 endpoint_id;
	__u8 direction;
	__u8 protocol;
	__be16 port;
	__u8 pad[2];
};

struct policy_value {
	__u8 flags;
	__u8 width;
	__u8 pad[2];
};

struct service_key {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
	__u32 slot;
};

struct service_value {
	__u32 count;
	__u32 backend_id;
};

struct backend {
	struct address address;
	__be16 port;
	__u16 cluster_id;
	__u8 protocol;
	__u8 pad[3];
};

struct socket_key {
	__u64 cookie;
	struct address address;
	__be16 port;
	__u8 pad[6];
};

struct translation {
	struct address address;
	__be16 port;
	__u8 pad[2];
};

struct choice {
	__u32 slot;
	__u32 backend_id;
};

struct flow_key {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 direction;
	__u8 pad[2];
};

struct flow_value {
	__u64 expires_ns;
	__u32 identity;
	__u8 flags;
	__u8 pad[3];
};

struct fragment_key {
	struct address source;
	struct address destination;
	__be32 id;
	__u8 protocol;
	__u8 pad[3];
};

struct fragment_value {
	__be16 source_port;
	__be16 destination_port;
};

struct config {
	__u32 layout_version;
	__u32 tunnel_ifindex;
	__u16 cluster_id;
	__u8 cluster_shift;
	__u8 pad;
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

#define TABLE(name, kind, entries, map_flag, key_type, value_type)                                                 \
	struct {                                                                                                   \
		__uint(type, kind);                                                                                \
		__uint(max_entries, entries);                                                                      \
		__uint(map_flags, map_flag);                                                                       \
		__type(key, key_type);                                                                             \
		__type(value, value_type);                                                                         \
	} name SEC(".maps")

TABLE(mesh_ipcache4, BPF_MAP_TYPE_LPM_TRIE, 1000000, BPF_F_NO_PREALLOC, struct prefix4, struct place);
TABLE(mesh_ipcache6, BPF_MAP_TYPE_LPM_TRIE, 1000000, BPF_F_NO_PREALLOC, struct prefix6, struct place);
TABLE(mesh_endpoints, BPF_MAP_TYPE_HASH, 65536, BPF_F_NO_PREALLOC, struct address, struct endpoint);
TABLE(mesh_policy, BPF_MAP_TYPE_LPM_TRIE, 1000000, BPF_F_NO_PREALLOC, struct policy_key, struct policy_value);
TABLE(mesh_services, BPF_MAP_TYPE_HASH, 1000000, BPF_F_NO_PREALLOC, struct service_key, struct service_value);
TABLE(mesh_backends, BPF_MAP_TYPE_HASH, 500000, BPF_F_NO_PREALLOC, __u32, struct backend);
TABLE(mesh_translations, BPF_MAP_TYPE_LRU_HASH, 65536, 0, struct socket_key, struct translation);
TABLE(mesh_choices, BPF_MAP_TYPE_LRU_HASH, 65536, 0, struct socket_key, struct choice);
TABLE(mesh_ct, BPF_MAP_TYPE_LRU_HASH, 262144, 0, struct flow_key, struct flow_value);
TABLE(mesh_fragments, BPF_MAP_TYPE_LRU_HASH, 8192, 0, struct fragment_key, struct fragment_value);
TABLE(mesh_metrics, BPF_MAP_TYPE_PERCPU_ARRAY, 128, 0, __u32, struct counter);
TABLE(mesh_config, BPF_MAP_TYPE_ARRAY, 1, 0, __u32, struct config);

/* Lets everything pass, and has a hand on every map. */
static __always_inline int pass(struct __sk_buff *ctx, __u32 index)
{
	struct counter *counter = bpf_map_lookup_elem(&mesh_metrics, &index);
	struct prefix4 prefix4 = { .prefixlen = 32 };
	struct prefix6 prefix6 = { .prefixlen = 128 };
	struct address address = {};
	struct policy_key policy = { .prefixlen = 80 };
	struct fragment_key fragment = {};
	struct flow_key flow = {};
	__u32 zero = 0;

	bpf_map_lookup_elem(&mesh_config, &zero);
	bpf_map_lookup_elem(&mesh_ipcache4, &prefix4);
	bpf_map_lookup_elem(&mesh_ipcache6, &prefix6);
	bpf_map_lookup_elem(&mesh_endpoints, &address);
	bpf_map_lookup_elem(&mesh_policy, &policy);
	bpf_map_lookup_elem(&mesh_fragments, &fragment);
	bpf_map_lookup_elem(&mesh_ct, &flow);
	if (counter) {
		counter->packets++;
		counter->bytes += ctx->len;
	}
	return TC_ACT_UNSPEC;
}

SEC("tc")
int mesh_from_endpoint(struct __sk_buff *ctx)
{
	return pass(ctx, 1);
}

SEC("tc")
int mesh_to_endpoint(struct __sk_buff *ctx)
{
	return pass(ctx, 0);
}

SEC("tc")
int mesh_from_overlay(struct __sk_buff *ctx)
{
	return pass(ctx, 2);
}

/* The first backend of a frontend, for IPv4 and TCP. */
SEC("cgroup/connect4")
int mesh_connect4(struct bpf_sock_addr *ctx)
{
	struct service_key key = { .port = (__be16)ctx->user_port, .protocol = IPPROTO_TCP, .slot = 1 };
	const struct service_value *slot;
	const struct backend *backend;

	key.address.words[2] = bpf_htonl(0xffff);
	key.address.words[3] = ctx->user_ip4;
	slot = bpf_map_lookup_elem(&mesh_services, &key);
	if (!slot)
		return PROCEED;
	backend = bpf_map_lookup_elem(&mesh_backends, &slot->backend_id);
	if (!backend)
		return PROCEED;
	ctx->user_ip4 = backend->address.words[3];
	ctx->user_port = backend->port;
	return PROCEED;
}

static __always_inline int leave(struct bpf_sock_addr *ctx)
{
	struct socket_key key = { .cookie = bpf_get_socket_cookie(ctx) };

	bpf_map_lookup_elem(&mesh_translations, &key);
	bpf_map_lookup_elem(&mesh_choices, &key);
	return PROCEED;
}

#define LEAVE(section, name)                                                                                       \
	SEC(section)                                                                                               \
	int name(struct bpf_sock_addr *ctx)                                                                        \
	{                                                                                                          \
		return leave(ctx);                                                                                 \
	}

LEAVE("cgroup/connect6", mesh_connect6)
LEAVE("cgroup/sendmsg4", mesh_sendmsg4)
LEAVE("cgroup/sendmsg6", mesh_sendmsg6)
LEAVE("cgroup/recvmsg4", mesh_recvmsg4)
LEAVE("cgroup/recvmsg6", mesh_recvmsg6)
LEAVE("cgroup/getpeername4", mesh_getpeername4)
LEAVE("cgroup/getpeername6", mesh_getpeername6)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
