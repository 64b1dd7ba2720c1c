/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
#ifndef MESH_CONFIG_H
#define MESH_CONFIG_H

#include "common.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mesh_config);
} mesh_config SEC(".maps");

static __always_inline const struct mesh_config *lookup_config(void)
{
	__u32 zero = 0;
	const struct mesh_config *config = bpf_map_lookup_elem(&mesh_config, &zero);

	/* An array entry exists from the beginning; it is zero until the agent has written it. */
	return config && config->layout_version == MESH_LAYOUT_VERSION ? config : NULL;
}

#endif
