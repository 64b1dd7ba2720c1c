/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
#ifndef MESH_IPCACHE_H
#define MESH_IPCACHE_H

#include "common.h"
#include "flow.h"

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1000000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mesh_ipcache4_key);
	__type(value, struct mesh_ipcache_value);
} mesh_ipcache4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1000000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mesh_ipcache6_key);
	__type(value, struct mesh_ipcache_value);
} mesh_ipcache6 SEC(".maps");

/*
 * The row of an address, or NULL. A compiler that makes one call out of the two keeps the kernel from knowing its map, and
 * from calling the trie itself: so they differ.
 */
static __always_inline const struct mesh_ipcache_value *lookup_ipcache(const struct mesh_address *address)
{
	const struct mesh_ipcache_value *value;

	if (is_mapped4(address)) {
		struct mesh_ipcache4_key key = { .prefixlen = 32, .address = address->words[3] };

		value = bpf_map_lookup_elem(&mesh_ipcache4, &key);
		barrier_var(value);
	} else {
		struct mesh_ipcache6_key key = { .prefixlen = 128, .address = *address };

		value = bpf_map_lookup_elem(&mesh_ipcache6, &key);
	}
	return value;
}

/*
 * The node to tunnel a packet to, or NULL: it leaves by the node's own routes. `remote` is the row of its destination, or
 * NULL. An answer to what came through the tunnel goes back there when nothing else says so: the other side's cluster may
 * tunnel where ours routes, and a node's own addresses are reached without the tunnel but for what came through it.
 */
static __always_inline const struct mesh_address *tunnel_to(const struct mesh_config *config,
							    const struct mesh_ipcache_value *remote,
							    const struct flow *flow)
{
	if (remote && (remote->flags & IPCACHE_HAS_TUNNEL) && !(config->flags & CONFIG_NATIVE_ROUTING))
		return &remote->tunnel_endpoint;
	return is_unspecified6(&flow->node) ? NULL : &flow->node;
}

#endif
