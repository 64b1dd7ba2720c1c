/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
#ifndef MESH_COMMON_H
#define MESH_COMMON_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "kernel.h"
#include "wire.h"

/* Of linux/pkt_cls.h. UNSPEC lets further programs of the hook, then the stack, have the packet. */
#define TC_ACT_UNSPEC (-1)
#define TC_ACT_SHOT 2
#define TC_ACT_REDIRECT 7

static __always_inline bool same_address(const struct mesh_address *a, const struct mesh_address *b)
{
	return a->words[0] == b->words[0] && a->words[1] == b->words[1] && a->words[2] == b->words[2] &&
	       a->words[3] == b->words[3];
}

static __always_inline void map_address4(struct mesh_address *to, __be32 address)
{
	to->words[0] = 0;
	to->words[1] = 0;
	to->words[2] = bpf_htonl(0xffff);
	to->words[3] = address;
}

static __always_inline bool is_mapped4(const struct mesh_address *address)
{
	return address->words[0] == 0 && address->words[1] == 0 && address->words[2] == bpf_htonl(0xffff);
}

#endif
