/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What happens, told to whoever listens. Nobody listens: one lookup and a branch. Many events: a few of them, counted. */
#ifndef MESH_EVENTS_H
#define MESH_EVENTS_H

#include "common.h"
#include "config.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} mesh_events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mesh_event_control);
} mesh_event_control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EVENT_KINDS);
	__type(key, __u32);
	__type(value, struct mesh_event_bucket);
} mesh_event_buckets SEC(".maps");

/* TRACE_*: what of all that goes on is told. One lookup, which the kernel's compiler turns into a load. */
static __always_inline __u8 trace_level(void)
{
	__u32 zero = 0;
	const struct mesh_config *config = bpf_map_lookup_elem(&mesh_config, &zero);

	return config ? config->trace_level : TRACE_NONE;
}

/*
 * Room in the ring for an event of a kind, or NULL: nobody reads, or too many were written lately, or the ring is full.
 * Of the bucket only one time is kept: when it would be full again. That is one comparison and one addition.
 */
static __always_inline void *reserve_event(__u32 kind, __u64 size, __u64 now)
{
	const struct mesh_event_control *control;
	struct mesh_event_bucket *bucket;
	__u32 index = 0;
	void *room;

	control = bpf_map_lookup_elem(&mesh_event_control, &index);
	if (!control || !control->interval_ns)
		return NULL;
	index = kind - 1;
	bucket = bpf_map_lookup_elem(&mesh_event_buckets, &index);
	if (!bucket)
		return NULL;
	if (bucket->full_ns > now + control->burst_ns) {
		/* Calls of sockets may interrupt one another on a CPU; what is counted must be right all the same. */
		__sync_fetch_and_add(&bucket->suppressed, 1);
		return NULL;
	}
	room = bpf_ringbuf_reserve(&mesh_events, size, 0);
	if (!room) {
		__sync_fetch_and_add(&bucket->lost, 1);
		return NULL;
	}
	bucket->full_ns = (bucket->full_ns > now ? bucket->full_ns : now) + control->interval_ns;
	return room;
}

/*
 * Tells of a packet. A function of its own, which the verifier reads once, and not at each of its many callers. `what`:
 * kind, reason, direction and state in a byte each, the endpoint above them; `identities`: source, destination above it.
 */
__noinline int emit_packet(struct __sk_buff *ctx, __u64 what, __u64 identities)
{
	__u64 now = bpf_ktime_get_ns();
	struct mesh_event *event;
	__u32 captured;

	event = reserve_event(what & 0xff, sizeof(*event), now);
	if (!event)
		return 0;
	__builtin_memset(event, 0, sizeof(*event));
	event->timestamp_ns = now;
	event->kind = what;
	event->reason = what >> 8;
	event->direction = what >> 16;
	event->state = what >> 24;
	event->endpoint_id = what >> 32;
	event->source_identity = identities;
	event->destination_identity = identities >> 32;
	event->ifindex = ctx->ifindex;
	event->length = ctx->len;
	captured = ctx->len;
	if (captured > EVENT_PACKET_SIZE)
		captured = EVENT_PACKET_SIZE;
	/* The verifier must see the bound in the register that is used below. */
	barrier_var(captured);
	if (captured > 0 && captured <= EVENT_PACKET_SIZE &&
	    !bpf_skb_load_bytes(ctx, 0, event->packet, captured))
		event->captured = captured;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* Arguments of emit_packet(). */
static __always_inline __u64 event_what(__u8 kind, __u8 reason, __u8 direction, __u8 state, __u16 endpoint_id)
{
	return kind | (__u64)reason << 8 | (__u64)direction << 16 | (__u64)state << 24 | (__u64)endpoint_id << 32;
}

static __always_inline __u64 event_identities(__u32 source, __u32 destination)
{
	return source | (__u64)destination << 32;
}

#endif
