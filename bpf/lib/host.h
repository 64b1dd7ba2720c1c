/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The node itself as a party of the mesh: the programs in its own network namespace, under its own addresses. Its route to
 * an endpoint elsewhere leads to the tunnel device (agent/datapath/host-routes.ts), and what answers comes through it.
 */
#ifndef MESH_HOST_H
#define MESH_HOST_H

#include "common.h"
#include "config.h"
#include "ipcache.h"

static __always_inline bool is_this_node(const struct mesh_config *config, const struct mesh_address *address)
{
	return same_address(address, &config->node4) || same_address(address, &config->node6);
}

/* An address of the node, `entry` being its row: one that it tunnels from, or another one that its cluster knows of. */
static __always_inline bool is_own_address(const struct mesh_config *config, const struct mesh_address *address,
					   const struct mesh_ipcache_value *entry)
{
	return is_this_node(config, address) || (entry && entry->identity == IDENTITY_HOST);
}

/*
 * What the node is to others: "some node", as Cilium has it. A machine that is no node has an identity of its own, and the
 * row of its address says which.
 */
static __always_inline __u32 host_identity(const struct mesh_ipcache_value *entry)
{
	return entry && entry->identity >= IDENTITY_FIRST_ALLOCATED ? entry->identity : IDENTITY_REMOTE_NODE;
}

#endif
