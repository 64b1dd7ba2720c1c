/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What became of a socket's call to a service, told to whoever listens. */
#ifndef MESH_SOCKET_TRACE_H
#define MESH_SOCKET_TRACE_H

#include "common.h"
#include "events.h"

/* To be called where a backend was picked, or none found (NULL): a refusal is told always, a translation at a level. */
static __always_inline void trace_service(struct bpf_sock_addr *ctx, const struct mesh_service_key *frontend,
					  const struct mesh_backend *backend)
{
	struct mesh_service_event *event;
	__u64 now;

	if (backend && trace_level() < TRACE_MEDIUM)
		return;
	now = bpf_ktime_get_ns();
	event = reserve_event(EVENT_SERVICE, sizeof(*event), now);
	if (!event)
		return;
	__builtin_memset(event, 0, sizeof(*event));
	event->timestamp_ns = now;
	event->kind = EVENT_SERVICE;
	event->reason = backend ? COUNT_SERVICE_TRANSLATED : DROP_SERVICE_NO_BACKEND;
	event->direction = DIRECTION_EGRESS;
	event->protocol = frontend->protocol;
	event->frontend = frontend->address;
	event->frontend_port = frontend->port;
	event->cookie = bpf_get_socket_cookie(ctx);
	if (backend) {
		event->backend = backend->address;
		event->backend_port = backend->port;
		event->cluster_id = backend->cluster_id;
	}
	bpf_ringbuf_submit(event, 0);
}

#endif
