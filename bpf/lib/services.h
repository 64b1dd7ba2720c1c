/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
#ifndef MESH_SERVICES_H
#define MESH_SERVICES_H

#include "common.h"

/* Slots and backends go last slot first and backend last: who reads meanwhile may meet a hole, and tries again. */
#define SERVICE_TRIES 4

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
	__type(key, struct mesh_socket_key);
	__type(value, struct mesh_translation);
} mesh_translations SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct mesh_socket_key);
	__type(value, struct mesh_choice);
} mesh_choices SEC(".maps");

/* Number of backends of a frontend (slot 0 of key), or NULL for an address that is no frontend. */
static __always_inline const struct mesh_service_value *lookup_service(const struct mesh_service_key *key)
{
	return bpf_map_lookup_elem(&mesh_services, key);
}

static __always_inline const struct mesh_backend *lookup_backend(__u32 id)
{
	return bpf_map_lookup_elem(&mesh_backends, &id);
}

/* A random backend of a frontend, and where it was found. Leaves key at that slot. */
static __always_inline const struct mesh_backend *choose_backend(struct mesh_service_key *key, __u32 count,
								 struct mesh_choice *choice)
{
	const struct mesh_service_value *slot;
	const struct mesh_backend *backend;

#pragma unroll
	for (int i = 0; i < SERVICE_TRIES; i++) {
		key->slot = 1 + (__u32)(((__u64)bpf_get_prandom_u32() * count) >> 32);
		slot = lookup_service(key);
		if (!slot)
			continue;
		choice->slot = key->slot;
		choice->backend_id = slot->backend_id;
		backend = lookup_backend(choice->backend_id);
		if (backend)
			return backend;
	}
	return NULL;
}

/* The backend that the socket's datagrams to this frontend went to before, while the frontend still has it there. */
static __always_inline const struct mesh_backend *repeat_choice(struct mesh_service_key *key, __u32 count,
								const struct mesh_socket_key *socket)
{
	const struct mesh_choice *choice = bpf_map_lookup_elem(&mesh_choices, socket);
	const struct mesh_service_value *slot;

	if (!choice || choice->slot > count)
		return NULL;
	key->slot = choice->slot;
	slot = lookup_service(key);
	if (!slot || slot->backend_id != choice->backend_id)
		return NULL;
	return lookup_backend(choice->backend_id);
}

#endif
