/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The part of wire.h that says why a packet was dropped, or how it went on; included there. */
#ifndef MESH_WIRE_REASONS_H
#define MESH_WIRE_REASONS_H

/*
 * Reasons of mesh_metrics and of events. Below 16 a packet went on. A drop has Cilium's number where Cilium has one for
 * it (pkg/monitor/api/drop.go: 130 to 223), else one of ours, from 224. In the order of their numbers, which are kept
 * for ever; names are in mesh/wire/maps.ts, advice in agent/monitor/advice.ts and docs/datapath.md.
 */
enum mesh_reason {
	COUNT_FORWARDED = 0,
	COUNT_FORWARDED_OVERLAY = 1,
	COUNT_PASSED_TO_STACK = 2,
	COUNT_SERVICE_TRANSLATED = 3,
	/* Policy would have dropped it, but for audit mode. */
	COUNT_POLICY_AUDITED = 4,
	DROP_INVALID_SOURCE = 132,
	DROP_POLICY_DENIED = 133,
	DROP_INVALID_PACKET = 134,
	/* Larger than the tunnel takes, and not to be fragmented: the sender was told. */
	DROP_PACKET_TOO_BIG = 136,
	DROP_UNSUPPORTED_PROTOCOL = 139,
	DROP_TUNNEL_FAILED = 141,
	DROP_NO_TUNNEL_KEY = 147,
	DROP_NO_ENDPOINT = 152,
	DROP_SERVICE_NO_BACKEND = 158,
	/* No node is known to tunnel to for the destination. */
	DROP_NO_TUNNEL_ENDPOINT = 160,
	/* No port is left to translate the source to. */
	DROP_NAT_EXHAUSTED = 167,
	/* A protocol whose ports cannot be rewritten. */
	DROP_NAT_UNSUPPORTED = 168,
	DROP_NO_ROUTE = 169,
	DROP_INVALID_IDENTITY = 171,
	DROP_OVERLAY_SOURCE_UNKNOWN = 172,
	DROP_FRAGMENT_NOT_FOUND = 175,
	DROP_POLICY_DENY_RULE = 181,
	DROP_NO_CONFIG = 202,
	DROP_OVERLAY_SOURCE_MISMATCH = 224,
	DROP_OVERLAY_CLUSTER_MISMATCH = 225,
	/* The outer source is the address of no node that the mesh knows. */
	DROP_OVERLAY_NODE_UNKNOWN = 240,
	/* The inner source belongs to another cluster than the node that sent it. */
	DROP_OVERLAY_SOURCE_CLUSTER = 241,
	/* The inner source is an address of this node or of one of its endpoints. */
	DROP_OVERLAY_SOURCE_OURS = 242,
	/* The same; the sender was not told, having been told often enough in the last second. */
	DROP_PACKET_TOO_BIG_SILENT = 244,
	MESH_REASONS = 256,
};

#endif
