/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Frontends, their backends, and the choice of one. Who reads while the agent writes may meet a hole (a slot, a table
 * entry or a backend that has just gone) and then looks elsewhere; the agent writes what is new first, and removes what
 * is old last.
 */
#ifndef MESH_SERVICES_H
#define MESH_SERVICES_H

#include "common.h"
#include "kernel.h"

#define SERVICE_TRIES 4
#define NANOSECONDS 1000000000ULL

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1000000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mesh_service_key);
	__type(value, struct mesh_service_value);
} mesh_services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 500000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct mesh_backend);
} mesh_backends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct mesh_affinity_key);
	__type(value, struct mesh_affinity_value);
} mesh_affinity SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1000000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mesh_member_key);
	__type(value, __u32);
} mesh_affinity_members SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mesh_maglev_key);
	__type(value, struct mesh_maglev_block);
} mesh_maglev SEC(".maps");

/* What a frontend is (slot 0 of key), or NULL for an address that is none in the key's scope. */
static __always_inline const struct mesh_service_value *lookup_service(const struct mesh_service_key *key)
{
	return bpf_map_lookup_elem(&mesh_services, key);
}

/* The frontend that somebody outside this node called. Leaves in key the scope in which its backends stand. */
static __always_inline const struct mesh_service_value *lookup_external_service(struct mesh_service_key *key)
{
	const struct mesh_service_value *service;

	key->scope = SERVICE_SCOPE_EXTERNAL;
	service = lookup_service(key);
	if (service)
		return service;
	key->scope = SERVICE_SCOPE_INTERNAL;
	service = lookup_service(key);
	return service && service->flags & SERVICE_EXTERNAL ? service : NULL;
}

static __always_inline const struct mesh_backend *lookup_backend(__u32 id)
{
	return bpf_map_lookup_elem(&mesh_backends, &id);
}

/* MEMBER_*, or 0 for a backend that does not count for this frontend, or not any more. */
static __always_inline __u32 lookup_member(__u32 service_id, __u32 backend_id)
{
	struct mesh_member_key key = { .service_id = service_id, .backend_id = backend_id };
	const __u32 *state = bpf_map_lookup_elem(&mesh_affinity_members, &key);

	return state ? *state : 0;
}

/* Spreads all bits of a number over all others (the finalizer of MurmurHash3). */
static __always_inline __u32 mix32(__u32 value)
{
	value ^= value >> 16;
	value *= 0x85ebca6b;
	value ^= value >> 13;
	value *= 0xc2b2ae35;
	return value ^ (value >> 16);
}

static __always_inline __u32 hash_word(__u32 hash, __u32 word)
{
	return mix32(hash ^ word) + 0x9e3779b9;
}

/* The same on every node for a flow from `source` to the frontend in key. */
static __always_inline __u32 hash_flow(const struct mesh_address *source, __be16 source_port,
				       const struct mesh_service_key *key)
{
	__u32 hash = hash_word(key->protocol, ((__u32)source_port << 16) | key->port);

#pragma unroll
	for (int i = 0; i < 4; i++) {
		hash = hash_word(hash, source->words[i]);
		hash = hash_word(hash, key->address.words[i]);
	}
	return mix32(hash);
}

static __always_inline __u32 hash_cookie(__u64 cookie)
{
	return mix32(hash_word(hash_word(0, (__u32)cookie), (__u32)(cookie >> 32)));
}

/* The backend that the client had last, if that was not too long ago and it still gets new flows. */
static __always_inline const struct mesh_backend *repeat_affinity(const struct mesh_service_value *service,
								  const struct mesh_affinity_key *client, __u64 now,
								  __u32 *backend_id)
{
	struct mesh_affinity_value *last = bpf_map_lookup_elem(&mesh_affinity, client);
	const struct mesh_backend *backend;

	if (!last || last->used_ns + service->affinity_seconds * NANOSECONDS < now)
		return NULL;
	*backend_id = last->backend_id;
	if (lookup_member(service->service_id, *backend_id) != MEMBER_ACTIVE)
		return NULL;
	backend = lookup_backend(*backend_id);
	if (backend)
		last->used_ns = now;
	return backend;
}

static __always_inline const struct mesh_backend *maglev_backend(const struct mesh_service_value *service, __u32 hash,
								 __u32 *backend_id)
{
	struct mesh_maglev_key key = { .service_id = service->service_id };
	const struct mesh_maglev_block *block;
	__u32 size = service->maglev_size;
	__u32 entry;

	if (!size)
		return NULL;
	entry = hash % size;
	key.block = entry / MAGLEV_BLOCK;
	block = bpf_map_lookup_elem(&mesh_maglev, &key);
	if (!block)
		return NULL;
	*backend_id = block->backend_ids[entry % MAGLEV_BLOCK];
	return lookup_backend(*backend_id);
}

/* Leaves key at the slot of the backend. */
static __always_inline const struct mesh_backend *random_backend(struct mesh_service_key *key, __u32 count,
								 __u32 *backend_id)
{
	const struct mesh_service_value *slot;
	const struct mesh_backend *backend;

#pragma unroll
	for (int i = 0; i < SERVICE_TRIES; i++) {
		key->slot = 1 + (__u32)(((__u64)bpf_get_prandom_u32() * count) >> 32);
		slot = lookup_service(key);
		if (!slot)
			continue;
		*backend_id = slot->backend_id;
		backend = lookup_backend(*backend_id);
		if (backend)
			return backend;
	}
	return NULL;
}

/*
 * A backend for a new flow to the frontend in key, whose slot 0 is `service`: the one that the client had, where the
 * frontend has affinity; else by Maglev, or a random one. NULL: there is none. `client` says who calls; its service_id
 * is filled in here. `hash` is hash_flow() or hash_cookie().
 */
static __always_inline const struct mesh_backend *select_backend_id(struct mesh_service_key *key,
								    const struct mesh_service_value *service,
								    struct mesh_affinity_key *client, __u32 hash,
								    __u32 *backend_id)
{
	const struct mesh_backend *backend = NULL;
	struct mesh_affinity_value last = {};

	if (!service->count)
		return NULL;
	if (service->affinity_seconds) {
		last.used_ns = now_ns();
		client->service_id = service->service_id;
		backend = repeat_affinity(service, client, last.used_ns, backend_id);
		if (backend)
			return backend;
	}
	backend = maglev_backend(service, hash, backend_id);
	if (!backend)
		backend = random_backend(key, service->count, backend_id);
	if (backend && service->affinity_seconds) {
		last.backend_id = *backend_id;
		bpf_map_update_elem(&mesh_affinity, client, &last, BPF_ANY);
	}
	return backend;
}

#endif
