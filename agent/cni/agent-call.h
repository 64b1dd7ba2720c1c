/* SPDX-License-Identifier: Apache-2.0 */
/* One question to the agent's unix socket: HTTP 1.0, each step with a deadline. */
#ifndef ISTHMUS_AGENT_CALL_H
#define ISTHMUS_AGENT_CALL_H

#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "cni-request.h"

#define MAX_ANSWER (1024 * 1024)
/* A container runtime gives a chain of plugins minutes; the agent answers in milliseconds. */
#define TIMEOUT_MS 20000

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Waits for `events`; 0 when they are there, else an errno. */
static int wait_for(int fd, short events, long long deadline)
{
	for (;;) {
		struct pollfd entry = { .fd = fd, .events = events };
		long long left = deadline - now_ms();
		int count;

		if (left <= 0)
			return ETIMEDOUT;
		count = poll(&entry, 1, (int)left);
		if (count > 0)
			return 0;
		if (count < 0 && errno != EINTR)
			return errno;
	}
}

/* Reads to the end of the stream; 0, or an errno: ETIMEDOUT, EFBIG, ENOMEM or what read() said. */
static int read_all(int fd, size_t limit, long long deadline, struct buffer *into)
{
	for (;;) {
		ssize_t count;
		int error;

		if (into->length == into->size) {
			size_t size = into->size ? into->size * 2 : 16384;
			char *data;

			if (into->size > limit)
				return EFBIG;
			data = realloc(into->data, size);
			if (!data)
				return ENOMEM;
			into->data = data;
			into->size = size;
		}
		error = wait_for(fd, POLLIN, deadline);
		if (error)
			return error;
		count = read(fd, into->data + into->length, into->size - into->length);
		if (count == 0)
			return into->length > limit ? EFBIG : 0;
		if (count < 0 && errno != EINTR && errno != EAGAIN)
			return errno;
		if (count > 0)
			into->length += (size_t)count;
	}
}

static int write_all(int fd, const char *data, size_t length, long long deadline)
{
	while (length > 0) {
		int error = wait_for(fd, POLLOUT, deadline);
		ssize_t count;

		if (error)
			return error;
		count = send(fd, data, length, MSG_NOSIGNAL);
		if (count < 0 && errno != EINTR && errno != EAGAIN)
			return errno;
		if (count > 0) {
			data += count;
			length -= (size_t)count;
		}
	}
	return 0;
}

static int send_request(int fd, const struct request *request, long long deadline)
{
	struct buffer body = { 0 };
	char head[160];
	int error;

	build_body(request, &body);
	/* Version 1.0, so that the answer ends with the connection and never comes in chunks. */
	snprintf(head, sizeof(head),
		 "POST /v1/cni HTTP/1.0\r\nHost: agent\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
		 body.length);
	error = write_all(fd, head, strlen(head), deadline);
	if (!error)
		error = write_all(fd, body.data, body.length, deadline);
	free(body.data);
	return error;
}

/* Where the answer's body begins; NULL when the answer was cut short, which is the same as none. */
static const char *answer_body(const struct buffer *answer)
{
	const char *blank_line = answer->length ? memmem(answer->data, answer->length, "\r\n\r\n", 4) : NULL;

	return blank_line ? blank_line + 4 : NULL;
}

/* Sends the request and reads the whole answer; 0, or an errno that says why the agent could not be asked. */
static int ask_agent(const struct request *request, struct buffer *answer)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	long long deadline = now_ms() + TIMEOUT_MS;
	int fd, error = 0;

	answer->length = 0;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return errno;
	strcpy(address.sun_path, request->socket_path);
	/* EAGAIN: the agent's queue is full. It is alive but late. */
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		error = errno;
	if (!error)
		error = send_request(fd, request, deadline);
	if (!error)
		error = read_all(fd, MAX_ANSWER, deadline, answer);
	close(fd);
	return error || answer_body(answer) ? error : ECONNRESET;
}

#endif
