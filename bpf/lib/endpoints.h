/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
#ifndef MESH_ENDPOINTS_H
#define MESH_ENDPOINTS_H

#include "common.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mesh_address);
	__type(value, struct mesh_endpoint);
} mesh_endpoints SEC(".maps");

static __always_inline const struct mesh_endpoint *lookup_endpoint(const struct mesh_address *address)
{
	return bpf_map_lookup_elem(&mesh_endpoints, address);
}

#endif
