/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The part of wire.h that is of a host that is its own firewall; included there. */
#ifndef MESH_WIRE_FIREWALL_H
#define MESH_WIRE_FIREWALL_H

/* mesh_firewall: one entry, which counts with CONFIG_FIREWALL. */
struct mesh_firewall {
	/* Clock of bpf_ktime_get_ns(), from when on the host is no firewall any more; 0: it stays one. */
	__u64 until_ns;
};
ASSERT_SIZE(struct mesh_firewall, 8);

/* mesh_firewall_open: calls that no policy of the host denies while it is a firewall; the value says nothing. */
struct mesh_firewall_key {
	/* The other side; "::": anybody. */
	struct mesh_address peer;
	/* Of the side that is called. */
	__be16 port;
	__u8 protocol;
	/* Of the call. */
	__u8 direction;
};
ASSERT_SIZE(struct mesh_firewall_key, 20);
ASSERT_OFFSET(struct mesh_firewall_key, port, 16);
ASSERT_OFFSET(struct mesh_firewall_key, protocol, 18);
ASSERT_OFFSET(struct mesh_firewall_key, direction, 19);

#endif
