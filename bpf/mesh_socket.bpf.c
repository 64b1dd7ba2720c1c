// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Services are translated where a socket of the cgroup names an address: packets then carry the backend's address from
 * the start. What the socket asks for in return (who is my peer, who sent this) is answered with the frontend.
 */
#include <linux/errno.h>

#include "lib/common.h"
#include "lib/metrics.h"
#include "lib/services.h"

/* Return values of a cgroup socket address program. */
#define REFUSE 0
#define PROCEED 1

#define PROTOCOL_MPTCP 262

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

static __always_inline void remember_frontend(struct bpf_sock_addr *ctx, const struct name *frontend,
					      const struct name *backend)
{
	struct mesh_translation value = { .address = frontend->address, .port = frontend->port };
	struct mesh_socket_key key = {};

	socket_key(ctx, backend, &key);
	bpf_map_update_elem(&mesh_translations, &key, &value, BPF_ANY);
}

/* Replaces a frontend by one of its backends. `sticky`: by the one that this socket got before. */
static __always_inline enum translation translate(struct bpf_sock_addr *ctx, struct name *name, bool sticky)
{
	struct mesh_service_key key = {
		.address = name->address,
		.port = name->port,
		.protocol = ctx->protocol == PROTOCOL_MPTCP ? IPPROTO_TCP : (__u8)ctx->protocol,
	};
	const struct mesh_service_value *service = lookup_service(&key);
	const struct mesh_backend *backend = NULL;
	struct mesh_socket_key socket = {};
	struct mesh_choice choice = {};
	struct name frontend = *name;

	if (!service)
		return NOT_A_SERVICE;
	if (sticky) {
		socket_key(ctx, name, &socket);
		backend = repeat_choice(&key, service->count, &socket);
	}
	if (!backend && service->count) {
		backend = choose_backend(&key, service->count, &choice);
		if (backend && sticky)
			bpf_map_update_elem(&mesh_choices, &socket, &choice, BPF_ANY);
	}
	if (!backend) {
		count(DROP_SERVICE_NO_BACKEND, DIRECTION_EGRESS, 0);
		return NO_BACKEND;
	}
	name->address = backend->address;
	name->port = backend->port;
	remember_frontend(ctx, &frontend, name);
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
