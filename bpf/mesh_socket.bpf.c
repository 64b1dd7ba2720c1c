// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Services are translated where a socket of the cgroup names an address: packets then carry the backend's address from
 * the start. What the socket asks for in return (who is my peer, who sent this) is answered with the frontend.
 */
#include <linux/errno.h>

#include "lib/common.h"
#include "lib/kernel.h"
#include "lib/metrics.h"
#include "lib/services.h"
#include "lib/socket_trace.h"

/* Return values of a cgroup socket address program. */
#define REFUSE 0
#define PROCEED 1

#define PROTOCOL_MPTCP 262

/* Of sys/socket.h. */
#define AF_INET 2

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct mesh_socket_key);
	__type(value, struct mesh_translation);
} mesh_translations SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct mesh_socket_key);
	__type(value, struct mesh_choice);
} mesh_choices SEC(".maps");

/* An address as a hook gets and sets it, in one form for both families. */
struct name {
	struct mesh_address address;
	__be16 port;
};

enum translation {
	/* No frontend of ours: the address is left alone. */
	NOT_A_SERVICE,
	TRANSLATED,
	NO_BACKEND,
};

static __always_inline void load_name4(const struct bpf_sock_addr *ctx, struct name *name)
{
	map_address4(&name->address, ctx->user_ip4);
	name->port = (__be16)ctx->user_port;
}

static __always_inline void store_name4(struct bpf_sock_addr *ctx, const struct name *name)
{
	ctx->user_ip4 = name->address.words[3];
	ctx->user_port = name->port;
}

static __always_inline void load_name6(const struct bpf_sock_addr *ctx, struct name *name)
{
	name->address.words[0] = ctx->user_ip6[0];
	name->address.words[1] = ctx->user_ip6[1];
	name->address.words[2] = ctx->user_ip6[2];
	name->address.words[3] = ctx->user_ip6[3];
	name->port = (__be16)ctx->user_port;
}

static __always_inline void store_name6(struct bpf_sock_addr *ctx, const struct name *name)
{
	ctx->user_ip6[0] = name->address.words[0];
	ctx->user_ip6[1] = name->address.words[1];
	ctx->user_ip6[2] = name->address.words[2];
	ctx->user_ip6[3] = name->address.words[3];
	ctx->user_port = name->port;
}

static __always_inline void socket_key(struct bpf_sock_addr *ctx, const struct name *name,
				       struct mesh_socket_key *key)
{
	key->cookie = bpf_get_socket_cookie(ctx);
	key->address = name->address;
	key->port = name->port;
}

/* A socket that sends many datagrams to one frontend needs one entry, and one write. */
static __always_inline void remember_frontend(const struct mesh_socket_key *socket, const struct name *frontend,
					      __u8 protocol)
{
	struct mesh_translation value = { .address = frontend->address, .port = frontend->port, .protocol = protocol };
	const struct mesh_translation *known = bpf_map_lookup_elem(&mesh_translations, socket);

	if (known && known->port == value.port && same_address(&known->address, &value.address))
		return;
	bpf_map_update_elem(&mesh_translations, socket, &value, BPF_ANY);
}

/* All sockets of a network namespace are one client: those of a pod, and those of the host together. */
static __always_inline void name_client(struct bpf_sock_addr *ctx, struct mesh_affinity_key *client)
{
	__u64 cookie = bpf_get_netns_cookie(ctx);

	client->client_kind = CLIENT_NETNS;
	client->client.words[0] = (__u32)cookie;
	client->client.words[1] = (__u32)(cookie >> 32);
}

/* The backend that the socket's datagrams to this frontend went to before, also when it is on its way out. */
static __always_inline const struct mesh_backend *repeat_choice(const struct mesh_service_value *service,
								const struct mesh_socket_key *socket)
{
	const struct mesh_choice *choice = bpf_map_lookup_elem(&mesh_choices, socket);

	if (!choice || choice->service_id != service->service_id)
		return NULL;
	if (!lookup_member(choice->service_id, choice->backend_id))
		return NULL;
	return lookup_backend(choice->backend_id);
}

/* 0 for what these hooks leave alone. Of SCTP a connect is one of many ways to begin: it is translated per packet. */
static __always_inline __u8 protocol_of(const struct bpf_sock_addr *ctx)
{
	switch (ctx->protocol) {
	case IPPROTO_TCP:
	case PROTOCOL_MPTCP:
		return IPPROTO_TCP;
	case IPPROTO_UDP:
		return IPPROTO_UDP;
	default:
		return 0;
	}
}

/* Replaces a frontend by one of its backends. `sticky`: by the one that this socket got before. */
static __always_inline enum translation translate(struct bpf_sock_addr *ctx, struct name *name, bool sticky)
{
	struct mesh_service_key key = {
		.address = name->address,
		.port = name->port,
		.protocol = protocol_of(ctx),
		.scope = SERVICE_SCOPE_INTERNAL,
	};
	const struct mesh_service_value *service = lookup_service(&key);
	const struct mesh_backend *backend = NULL;
	struct mesh_affinity_key client = {};
	struct mesh_socket_key socket = {};
	struct mesh_choice choice = {};
	struct name frontend = *name;

	if (!service)
		return NOT_A_SERVICE;
	socket_key(ctx, name, &socket);
	if (sticky)
		backend = repeat_choice(service, &socket);
	if (!backend) {
		if (service->affinity_seconds)
			name_client(ctx, &client);
		backend = select_backend_id(&key, service, &client, hash_cookie(socket.cookie), &choice.backend_id);
		if (backend && sticky) {
			choice.service_id = service->service_id;
			bpf_map_update_elem(&mesh_choices, &socket, &choice, BPF_ANY);
		}
		trace_service(ctx, &key, backend);
	}
	if (!backend) {
		count(DROP_SERVICE_NO_BACKEND, DIRECTION_EGRESS, 0);
		return NO_BACKEND;
	}
	name->address = backend->address;
	name->port = backend->port;
	socket.address = name->address;
	socket.port = name->port;
	remember_frontend(&socket, &frontend, key.protocol);
	count(COUNT_SERVICE_TRANSLATED, DIRECTION_EGRESS, 0);
	return TRANSLATED;
}

/* Replaces a backend by the frontend that this socket called. */
static __always_inline bool translate_back(struct bpf_sock_addr *ctx, struct name *name)
{
	const struct mesh_translation *frontend;
	struct mesh_socket_key key = {};

	socket_key(ctx, name, &key);
	frontend = bpf_map_lookup_elem(&mesh_translations, &key);
	if (!frontend)
		return false;
	name->address = frontend->address;
	name->port = frontend->port;
	return true;
}

/* A known frontend without backends is refused at once, as a closed port would be, and not left to time out. */
static __always_inline int refuse(void)
{
	if (kernel_switches.set_retval)
		bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

static __always_inline int forward4(struct bpf_sock_addr *ctx, bool sticky)
{
	struct name name;
	enum translation result;

	load_name4(ctx, &name);
	result = translate(ctx, &name, sticky);
	if (result == NO_BACKEND)
		return refuse();
	if (result == TRANSLATED)
		store_name4(ctx, &name);
	return PROCEED;
}

/* Also for IPv4 addresses in their mapped form: for an IPv6 socket that connects, the kernel calls this hook only. */
static __always_inline int forward6(struct bpf_sock_addr *ctx, bool sticky)
{
	struct name name;
	enum translation result;

	load_name6(ctx, &name);
	result = translate(ctx, &name, sticky);
	if (result == NO_BACKEND)
		return refuse();
	if (result == TRANSLATED)
		store_name6(ctx, &name);
	return PROCEED;
}

static __always_inline int reverse4(struct bpf_sock_addr *ctx)
{
	struct name name;

	load_name4(ctx, &name);
	if (translate_back(ctx, &name))
		store_name4(ctx, &name);
	return PROCEED;
}

static __always_inline int reverse6(struct bpf_sock_addr *ctx)
{
	struct name name;

	load_name6(ctx, &name);
	if (translate_back(ctx, &name))
		store_name6(ctx, &name);
	return PROCEED;
}

/* A socket that is closed needs no answers any more: the map is for those that live. */
SEC("cgroup/sock_release")
int mesh_sock_release(struct bpf_sock *ctx)
{
	/* All fields before any branch: the verifier wants their offsets to be constants. */
	struct mesh_socket_key key = {
		.cookie = bpf_get_socket_cookie(ctx),
		.address.words = { ctx->dst_ip6[0], ctx->dst_ip6[1], ctx->dst_ip6[2], ctx->dst_ip6[3] },
		.port = ctx->dst_port,
	};
	__be32 address4 = ctx->dst_ip4;

	barrier();
	if (ctx->family == AF_INET)
		map_address4(&key.address, address4);
	if (key.port)
		bpf_map_delete_elem(&mesh_translations, &key);
	return PROCEED;
}

SEC("cgroup/connect4")
int mesh_connect4(struct bpf_sock_addr *ctx)
{
	return forward4(ctx, false);
}

SEC("cgroup/connect6")
int mesh_connect6(struct bpf_sock_addr *ctx)
{
	return forward6(ctx, false);
}

SEC("cgroup/sendmsg4")
int mesh_sendmsg4(struct bpf_sock_addr *ctx)
{
	return forward4(ctx, true);
}

SEC("cgroup/sendmsg6")
int mesh_sendmsg6(struct bpf_sock_addr *ctx)
{
	return forward6(ctx, true);
}

SEC("cgroup/recvmsg4")
int mesh_recvmsg4(struct bpf_sock_addr *ctx)
{
	return reverse4(ctx);
}

SEC("cgroup/recvmsg6")
int mesh_recvmsg6(struct bpf_sock_addr *ctx)
{
	return reverse6(ctx);
}

SEC("cgroup/getpeername4")
int mesh_getpeername4(struct bpf_sock_addr *ctx)
{
	return reverse4(ctx);
}

SEC("cgroup/getpeername6")
int mesh_getpeername6(struct bpf_sock_addr *ctx)
{
	return reverse6(ctx);
}

char _license[] SEC("license") = "GPL";
