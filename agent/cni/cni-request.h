/* SPDX-License-Identifier: Apache-2.0 */
/* A request as the container runtime makes it, and as it is passed on: one JSON object. */
#ifndef ISTHMUS_CNI_REQUEST_H
#define ISTHMUS_CNI_REQUEST_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "cni-error.h"
#include "json-scan.h"

enum command { ADD, DEL, CHECK, GC, STATUS, VERSION };

static const char *const command_names[] = { "ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION" };

struct request {
	enum command command;
	const char *container_id;
	const char *netns;
	const char *if_name;
	const char *args;
	const char *path;
	char *config;
	size_t config_length;
	char socket_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	/* A pod starts without an agent: it is told of it later. Otherwise ADD fails. */
	bool open_when_down;
	/* How long ADD waits for an agent, in milliseconds. */
	long long wait_ms;
	struct json_span prev_result;
};

/* Bytes that grow as they come. */
struct buffer {
	char *data;
	size_t length;
	size_t size;
};

/* The request as JSON, in memory that the caller frees. */
static void build_body(const struct request *request, struct buffer *into)
{
	FILE *body = open_memstream(&into->data, &into->length);

	if (!body)
		fail(CNI_IO, "cannot build the request", strerror(errno));
	fprintf(body, "{\"command\":\"%s\",\"containerId\":", command_names[request->command]);
	put_json_string(body, request->container_id);
	fputs(",\"netns\":", body);
	put_json_string(body, request->netns);
	fputs(",\"ifName\":", body);
	put_json_string(body, request->if_name);
	fputs(",\"args\":", body);
	put_json_string(body, request->args);
	fputs(",\"path\":", body);
	put_json_string(body, request->path);
	fputs(",\"config\":", body);
	fwrite(request->config, 1, request->config_length, body);
	fputs("}", body);
	if (fclose(body) != 0 || !into->data)
		fail(CNI_IO, "cannot build the request", "out of memory");
}

#endif
