// SPDX-License-Identifier: Apache-2.0
/*
 * Load for the benchmarks of the data path, where Node itself would be what is measured. One server and clients of six
 * kinds; a client prints one JSON line: {"operations","bytes","errors","seconds"}.
 *
 *   netload serve PORT                                  TCP and UDP, both families
 *   netload KIND ADDRESS[+COUNT] PORT SECONDS THREADS [SIZE]
 *
 *   stream     bytes over a connection each thread
 *   rr         a byte there and back, one connection each thread
 *   crr        connect, a byte there and back, close
 *   connect    connect and close
 *   udp-rr     a datagram there and back
 *   udp-send   datagrams of SIZE bytes, as fast as they go; the server counts what arrives
 *
 * ADDRESS+COUNT: each connection goes to one of COUNT addresses that follow each other, at random.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define STREAM_BUFFER (128 * 1024)
#define STACK_BYTES (256 * 1024)
#define TIMEOUT_SECONDS 3

/* First byte of a connection: what the server does with it. */
#define MODE_ECHO 'e'
#define MODE_DISCARD 'd'
/* First byte of a datagram. */
#define MODE_COUNT 'c'
#define MODE_HOW_MANY '?'

union address {
	struct sockaddr any;
	struct sockaddr_in four;
	struct sockaddr_in6 six;
};

struct client {
	const char *kind;
	union address first;
	uint32_t count;
	double seconds;
	size_t size;
	unsigned int seed;
	double stop_at;
	uint64_t operations;
	uint64_t bytes;
	uint64_t errors;
};

static _Atomic uint64_t datagrams;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	fprintf(stderr, "netload: %s: %s\n", what, strerror(errno));
	exit(1);
}

static socklen_t length_of(const union address *address)
{
	return address->any.sa_family == AF_INET ? sizeof(address->four) : sizeof(address->six);
}

static void *serve_connection(void *argument)
{
	int fd = (int)(intptr_t)argument;
	char *buffer = malloc(STREAM_BUFFER);
	int one = 1;
	ssize_t got = recv(fd, buffer, 1, 0);
	bool echoes = got == 1 && buffer[0] == MODE_ECHO;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	while (got > 0) {
		got = recv(fd, buffer, STREAM_BUFFER, 0);
		if (got > 0 && echoes && send(fd, buffer, got, MSG_NOSIGNAL) != got)
			break;
	}
	free(buffer);
	close(fd);
	return NULL;
}

static void *serve_datagrams(void *argument)
{
	int fd = (int)(intptr_t)argument;
	static char buffer[65536];
	union address from;

	for (;;) {
		socklen_t length = sizeof(from);
		ssize_t got = recvfrom(fd, buffer, sizeof(buffer), 0, &from.any, &length);

		if (got <= 0)
			continue;
		if (buffer[0] == MODE_COUNT) {
			datagrams += 1;
		} else if (buffer[0] == MODE_HOW_MANY) {
			uint64_t answer = atomic_exchange(&datagrams, 0);

			sendto(fd, &answer, sizeof(answer), 0, &from.any, length);
		} else {
			sendto(fd, buffer, got, 0, &from.any, length);
		}
	}
	return NULL;
}

static pthread_t start(void *(*run)(void *), void *argument)
{
	pthread_attr_t attributes;
	pthread_t thread;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	if (pthread_create(&thread, &attributes, run, argument))
		fail("cannot start a thread");
	return thread;
}

static int listen_on(int type, uint16_t port)
{
	struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int fd = socket(AF_INET6, type, 0), one = 1, none = 0, big = 4 * 1024 * 1024;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &none, sizeof(none));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &big, sizeof(big));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)))
		fail("cannot bind");
	if (type == SOCK_STREAM && listen(fd, 4096))
		fail("cannot listen");
	return fd;
}

static void serve(uint16_t port)
{
	int listener = listen_on(SOCK_STREAM, port);

	start(serve_datagrams, (void *)(intptr_t)listen_on(SOCK_DGRAM, port));
	puts("ready");
	fflush(stdout);
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fd >= 0)
			pthread_detach(start(serve_connection, (void *)(intptr_t)fd));
	}
}

/* One of the addresses, at random. */
static union address target_of(struct client *client)
{
	union address target = client->first;
	uint32_t step = client->count > 1 ? rand_r(&client->seed) % client->count : 0;

	if (target.any.sa_family == AF_INET) {
		target.four.sin_addr.s_addr = htonl(ntohl(target.four.sin_addr.s_addr) + step);
	} else {
		uint32_t last;

		memcpy(&last, &target.six.sin6_addr.s6_addr[12], sizeof(last));
		last = htonl(ntohl(last) + step);
		memcpy(&target.six.sin6_addr.s6_addr[12], &last, sizeof(last));
	}
	return target;
}

static int open_to(struct client *client, int type)
{
	struct timeval timeout = { .tv_sec = TIMEOUT_SECONDS };
	struct linger reset = { .l_onoff = 1 };
	union address target = target_of(client);
	int fd = socket(target.any.sa_family, type, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	if (type == SOCK_STREAM) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		/* Ports of connections that were closed in order are not free again within a round. */
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	}
	if (connect(fd, &target.any, length_of(&target))) {
		close(fd);
		return -1;
	}
	return fd;
}

static bool ask(int fd, const char *bytes, size_t length)
{
	char answer[64];

	return send(fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length && recv(fd, answer, sizeof(answer), 0) > 0;
}

static void run_stream(struct client *client)
{
	int fd = open_to(client, SOCK_STREAM);
	char *buffer = malloc(STREAM_BUFFER);

	memset(buffer, MODE_DISCARD, STREAM_BUFFER);
	while (fd >= 0 && now() < client->stop_at) {
		ssize_t sent = send(fd, buffer, STREAM_BUFFER, MSG_NOSIGNAL);

		if (sent <= 0)
			break;
		client->bytes += sent;
		client->operations += 1;
	}
	if (fd < 0 || now() < client->stop_at)
		client->errors += 1;
	close(fd);
	free(buffer);
}

static void run_requests(struct client *client, int type)
{
	int fd = open_to(client, type);
	const char *hello = "e";

	if (fd < 0 || (type == SOCK_STREAM && send(fd, hello, 1, MSG_NOSIGNAL) != 1)) {
		client->errors += 1;
		return;
	}
	while (now() < client->stop_at) {
		if (ask(fd, "x", 1))
			client->operations += 1;
		else
			client->errors += 1;
	}
	close(fd);
}

static void run_connections(struct client *client, bool asks)
{
	while (now() < client->stop_at) {
		int fd = open_to(client, SOCK_STREAM);

		if (fd >= 0 && (!asks || ask(fd, "ex", 2)))
			client->operations += 1;
		else
			client->errors += 1;
		if (fd >= 0)
			close(fd);
	}
}

static void run_datagrams(struct client *client)
{
	int fd = open_to(client, SOCK_DGRAM);
	char *buffer = calloc(1, client->size);
	uint64_t arrived;

	buffer[0] = MODE_COUNT;
	for (uint64_t sent = 0; fd >= 0; sent += 1) {
		if (sent % 64 == 0 && now() >= client->stop_at)
			break;
		if (send(fd, buffer, client->size, 0) < 0 && errno != ENOBUFS && errno != ECONNREFUSED)
			client->errors += 1;
	}
	/* What is still under way. */
	usleep(50 * 1000);
	buffer[0] = MODE_HOW_MANY;
	if (fd < 0 || send(fd, buffer, 1, 0) != 1 || recv(fd, &arrived, sizeof(arrived), 0) != sizeof(arrived)) {
		client->errors += 1;
	} else {
		client->operations = arrived;
		client->bytes = arrived * client->size;
	}
	close(fd);
	free(buffer);
}

static void *run_client(void *argument)
{
	struct client *client = argument;

	client->stop_at = now() + client->seconds;
	if (!strcmp(client->kind, "stream"))
		run_stream(client);
	else if (!strcmp(client->kind, "rr"))
		run_requests(client, SOCK_STREAM);
	else if (!strcmp(client->kind, "udp-rr"))
		run_requests(client, SOCK_DGRAM);
	else if (!strcmp(client->kind, "crr"))
		run_connections(client, true);
	else if (!strcmp(client->kind, "connect"))
		run_connections(client, false);
	else
		run_datagrams(client);
	return NULL;
}

static bool parse_address(const char *text, union address *address)
{
	memset(address, 0, sizeof(*address));
	if (inet_pton(AF_INET, text, &address->four.sin_addr) == 1)
		address->any.sa_family = AF_INET;
	else if (inet_pton(AF_INET6, text, &address->six.sin6_addr) == 1)
		address->any.sa_family = AF_INET6;
	else
		return false;
	return true;
}

static void usage(void)
{
	fputs("usage: netload serve PORT | netload stream|rr|crr|connect|udp-rr|udp-send ADDRESS[+COUNT] PORT SECONDS THREADS [SIZE]\n",
	      stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	struct client total = {}, model = { .count = 1, .size = 64 };
	struct client *clients;
	pthread_t *threads;
	double began;
	char *plus;
	int count;

	signal(SIGPIPE, SIG_IGN);
	if (argc == 3 && !strcmp(argv[1], "serve"))
		serve(atoi(argv[2]));
	if (argc < 6)
		usage();
	plus = strchr(argv[2], '+');
	if (plus) {
		*plus = '\0';
		model.count = strtoul(plus + 1, NULL, 10);
	}
	if (!parse_address(argv[2], &model.first))
		usage();
	model.kind = argv[1];
	model.first.four.sin_port = htons(atoi(argv[3]));
	model.seconds = atof(argv[4]);
	count = atoi(argv[5]);
	if (argc > 6)
		model.size = strtoul(argv[6], NULL, 10);
	if (count < 1 || model.count < 1 || model.size < 1)
		usage();
	clients = calloc(count, sizeof(*clients));
	threads = calloc(count, sizeof(*threads));
	began = now();
	for (int i = 0; i < count; i++) {
		clients[i] = model;
		clients[i].seed = 1 + i;
		threads[i] = start(run_client, &clients[i]);
	}
	for (int i = 0; i < count; i++) {
		pthread_join(threads[i], NULL);
		total.operations += clients[i].operations;
		total.bytes += clients[i].bytes;
		total.errors += clients[i].errors;
	}
	printf("{\"operations\":%llu,\"bytes\":%llu,\"errors\":%llu,\"seconds\":%.6f}\n",
	       (unsigned long long)total.operations, (unsigned long long)total.bytes,
	       (unsigned long long)total.errors, now() - began);
	return 0;
}
