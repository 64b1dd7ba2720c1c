/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clustermesh-cni: chained CNI plugin (specification 0.3.1 to 1.1.0). It decides nothing: it passes the request to the agent's
 * unix socket and prints the agent's answer. One static program, because hosts that run it need not have Node.
 *
 * Configuration: "socketPath" (default /run/isthmus/agent.sock) and "whenAgentDown": "fail" (default), or "open", which lets ADD
 * succeed without the mesh when the agent cannot be asked. DEL and GC succeed without the agent: it finds out what is gone
 * when it starts. Exit code 0, or 1 with a CNI error object on standard output.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "json-scan.h"

#define DEFAULT_SOCKET "/run/isthmus/agent.sock"
#define NEWEST_VERSION "1.1.0"
#define MAX_INPUT (1024 * 1024)
#define MAX_ANSWER (1024 * 1024)
/* A container runtime gives a chain of plugins minutes; the agent answers in milliseconds. */
#define TIMEOUT_MS 20000
/* From include/linux/if.h: IFNAMSIZ - 1. */
#define MAX_IF_NAME 15

/* Codes of the CNI specification, section "Error", and for STATUS of the section "STATUS". */
enum cni_code {
	CNI_BAD_VERSION = 1,
	CNI_BAD_ENVIRONMENT = 4,
	CNI_IO = 5,
	CNI_NOT_JSON = 6,
	CNI_BAD_CONFIG = 7,
	CNI_TRY_AGAIN = 11,
	CNI_NOT_AVAILABLE = 50,
	/* From 100 on codes are a plugin's own. */
	CNI_AGENT_ANSWER = 100,
};

enum command { ADD, DEL, CHECK, GC, STATUS, VERSION };

static const char *const command_names[] = { "ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION" };
static const char *const versions[] = { "0.3.1", "0.4.0", "1.0.0", NEWEST_VERSION };

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
	bool open_when_down;
	struct json_span prev_result;
};

/* What errors are printed with: the configuration's version once it is known. */
static char cni_version[16] = NEWEST_VERSION;

/* Bytes that grow as they come, up to a limit. */
struct buffer {
	char *data;
	size_t length;
	size_t size;
};

/* Bytes of the UTF-8 character at `text`, 0 when there is none: the environment may hold anything, and texts get cut. */
static int utf8_length(const unsigned char *text)
{
	int length = *text < 0x80 ? 1 : *text < 0xc2 ? 0 : *text < 0xe0 ? 2 : *text < 0xf0 ? 3 : *text < 0xf5 ? 4 : 0;

	for (int i = 1; i < length; i++)
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	return length;
}

static void put_json_string(FILE *out, const char *string)
{
	const unsigned char *text = (const unsigned char *)string;

	fputc('"', out);
	while (*text) {
		int length = utf8_length(text);

		if (*text == '"' || *text == '\\')
			fprintf(out, "\\%c", *text);
		else if (*text < 0x20)
			fprintf(out, "\\u%04x", *text);
		else if (length == 0)
			fputs("\\ufffd", out);
		else
			fwrite(text, 1, (size_t)length, out);
		text += length ? length : 1;
	}
	fputc('"', out);
}

/* Prints the CNI error object and ends the program. */
static _Noreturn void fail(int code, const char *message, const char *details)
{
	printf("{\"cniVersion\":");
	put_json_string(stdout, cni_version);
	printf(",\"code\":%d,\"msg\":", code);
	put_json_string(stdout, message);
	printf(",\"details\":");
	put_json_string(stdout, details);
	printf("}\n");
	fflush(stdout);
	exit(1);
}

static _Noreturn void failf(int code, const char *message, const char *format, const char *value)
{
	char details[1024];

	snprintf(details, sizeof(details), format, value);
	fail(code, message, details);
}

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

static const char *environment(const char *name)
{
	const char *value = getenv(name);

	return value ? value : "";
}

static int find_version(const char *version)
{
	for (size_t i = 0; i < sizeof(versions) / sizeof(*versions); i++)
		if (strcmp(version, versions[i]) == 0)
			return (int)i;
	return -1;
}

static enum command parse_command(void)
{
	const char *name = environment("CNI_COMMAND");

	for (size_t i = 0; i < sizeof(command_names) / sizeof(*command_names); i++)
		if (strcmp(name, command_names[i]) == 0)
			return (enum command)i;
	if (*name == '\0')
		fail(CNI_BAD_ENVIRONMENT, "CNI_COMMAND is not set",
		     "this program is called by a container runtime, as the last plugin of a network's list");
	failf(CNI_BAD_ENVIRONMENT, "cannot do this CNI_COMMAND",
	      "got \"%s\", expected ADD, DEL, CHECK, GC, STATUS or VERSION", name);
}

/* Names as libcni checks them (pkg/utils/utils.go of containernetworking/cni). */
static bool is_container_id(const char *id)
{
	for (size_t i = 0; id[i]; i++) {
		bool is_alphanumeric = (id[i] >= 'a' && id[i] <= 'z') ||
				       (id[i] >= 'A' && id[i] <= 'Z') || (id[i] >= '0' && id[i] <= '9');

		if (!is_alphanumeric && (i == 0 || !strchr("_.-", id[i])))
			return false;
	}
	return *id != '\0';
}

static bool is_if_name(const char *name)
{
	if (*name == '\0' || strlen(name) > MAX_IF_NAME || !strcmp(name, ".") || !strcmp(name, ".."))
		return false;
	for (; *name; name++)
		if (strchr("/: \t\n\v\f\r", *name))
			return false;
	return true;
}

static void check_environment(const struct request *request)
{
	enum command command = request->command;

	if (command == GC || command == STATUS)
		return;
	if (!is_container_id(request->container_id))
		failf(CNI_BAD_ENVIRONMENT, "CNI_CONTAINERID is not usable",
		      "got \"%s\", expected letters, digits, '_', '.' and '-'", request->container_id);
	if (!is_if_name(request->if_name))
		failf(CNI_BAD_ENVIRONMENT, "CNI_IFNAME is not usable",
		      "got \"%s\", expected the name of an interface, 1 to 15 characters", request->if_name);
	/* DEL comes without a namespace when that is gone already. */
	if (command != DEL && *request->netns == '\0')
		fail(CNI_BAD_ENVIRONMENT, "CNI_NETNS is not set", "expected the path of the container's network namespace");
}

static void parse_version(const struct request *request)
{
	struct json_span span;
	char version[sizeof(cni_version)];
	int index;

	if (!json_find(request->config, request->config_length, "cniVersion", &span)) {
		if (request->command == VERSION)
			return;
		fail(CNI_BAD_VERSION, "cniVersion is missing in the configuration", "expected 0.3.1 to " NEWEST_VERSION);
	}
	if (!json_copy_string(span, version, sizeof(version)))
		fail(CNI_BAD_VERSION, "cannot read cniVersion in the configuration",
		     "expected a text such as \"" NEWEST_VERSION "\"");
	index = find_version(version);
	if (index < 0) {
		/* A runtime asks for our versions with one of its own. */
		if (request->command == VERSION)
			return;
		failf(CNI_BAD_VERSION, "this version of CNI is not supported",
		      "got \"%s\", expected 0.3.1, 0.4.0, 1.0.0 or " NEWEST_VERSION, version);
	}
	strcpy(cni_version, version);
	if (request->command == CHECK && index < find_version("0.4.0"))
		failf(CNI_BAD_VERSION, "CHECK needs cniVersion 0.4.0 or newer", "got \"%s\"", version);
	if ((request->command == GC || request->command == STATUS) && index < find_version("1.1.0"))
		failf(CNI_BAD_VERSION, "GC and STATUS need cniVersion 1.1.0", "got \"%s\"", version);
}

static void parse_config(struct request *request)
{
	struct json_span span;
	char policy[8];

	if (!json_is_object(request->config, request->config_length))
		fail(CNI_NOT_JSON, "cannot read the configuration", "standard input is not one JSON object");
	parse_version(request);
	strcpy(request->socket_path, DEFAULT_SOCKET);
	if (json_find(request->config, request->config_length, "socketPath", &span) &&
	    (!json_copy_string(span, request->socket_path, sizeof(request->socket_path)) ||
	     request->socket_path[0] != '/'))
		fail(CNI_BAD_CONFIG, "cannot use socketPath in the configuration",
		     "expected an absolute path of at most 107 bytes, without escapes");
	if (json_find(request->config, request->config_length, "whenAgentDown", &span)) {
		request->open_when_down = json_copy_string(span, policy, sizeof(policy)) && !strcmp(policy, "open");
		if (!request->open_when_down && (!json_copy_string(span, policy, sizeof(policy)) || strcmp(policy, "fail")))
			fail(CNI_BAD_CONFIG, "cannot use whenAgentDown in the configuration",
			     "expected \"fail\" or \"open\"");
	}
	if (json_find(request->config, request->config_length, "prevResult", &span) && span.at[0] == '{')
		request->prev_result = span;
	else if (request->command == ADD || request->command == CHECK)
		fail(CNI_BAD_CONFIG, "prevResult is missing in the configuration",
		     "clustermesh-cni is chained: put it behind a plugin that makes the interface, such as ptp");
}

static _Noreturn void print_version(void)
{
	printf("{\"cniVersion\":");
	put_json_string(stdout, cni_version);
	printf(",\"supportedVersions\":[");
	for (size_t i = 0; i < sizeof(versions) / sizeof(*versions); i++)
		printf("%s\"%s\"", i ? "," : "", versions[i]);
	printf("]}\n");
	exit(fflush(stdout) == 0 ? 0 : 1);
}

static void build_request(const struct request *request, struct buffer *into)
{
	FILE *body = open_memstream(&into->data, &into->length);
	char *text;
	size_t length;

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
	fclose(body);
	text = into->data;
	length = into->length;
	body = open_memstream(&into->data, &into->length);
	if (!text || !body)
		fail(CNI_IO, "cannot build the request", "out of memory");
	/* Version 1.0, so that the answer ends with the connection and never comes in chunks. */
	fprintf(body, "POST /v1/cni HTTP/1.0\r\nHost: agent\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
		length);
	fwrite(text, 1, length, body);
	fclose(body);
	free(text);
	if (!into->data)
		fail(CNI_IO, "cannot build the request", "out of memory");
}

/* Sends the request and reads the whole answer; 0, or an errno that says why the agent could not be asked. */
static int ask_agent(const struct request *request, struct buffer *answer)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	long long deadline = now_ms() + TIMEOUT_MS;
	struct buffer message = { 0 };
	int fd, error = 0;

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return errno;
	strcpy(address.sun_path, request->socket_path);
	/* EAGAIN: the agent's queue is full. It is alive but late; the caller is told to come again. */
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		error = errno;
	if (!error) {
		build_request(request, &message);
		error = write_all(fd, message.data, message.length, deadline);
		free(message.data);
	}
	if (!error)
		error = read_all(fd, MAX_ANSWER, deadline, answer);
	close(fd);
	return error;
}

static _Noreturn void print_and_exit(const char *text, size_t length, int exit_code)
{
	fwrite(text, 1, length, stdout);
	if (length > 0 && text[length - 1] != '\n')
		fputc('\n', stdout);
	if (fflush(stdout) != 0 || ferror(stdout))
		exit(1);
	exit(exit_code);
}

static _Noreturn void finish_without_agent(const struct request *request, int error)
{
	char details[512];

	if (request->command == DEL || request->command == GC)
		exit(0);
	if (request->command == ADD && request->open_when_down)
		print_and_exit(request->prev_result.at, request->prev_result.length, 0);
	snprintf(details, sizeof(details),
		 "%s: %s; start clustermesh-agent on this node, or set socketPath in the network's configuration",
		 request->socket_path, strerror(error));
	fail(request->command == STATUS ? CNI_NOT_AVAILABLE : CNI_TRY_AGAIN, "cannot reach clustermesh-agent", details);
}

/* Takes an HTTP answer apart and prints its body; what is no such answer is an error of its own. */
static _Noreturn void finish_with_answer(const struct request *request, const struct buffer *answer)
{
	const char *body = memmem(answer->data, answer->length, "\r\n\r\n", 4);
	struct json_span code;
	size_t length;
	int status;

	/* An answer cut short by the agent's death is the same as no answer. */
	if (!body)
		finish_without_agent(request, ECONNRESET);
	if (answer->length < 13 || memcmp(answer->data, "HTTP/1.", 7) != 0)
		failf(CNI_AGENT_ANSWER, "what answers is not clustermesh-agent",
		      "%s does not speak HTTP; set socketPath in the network's configuration", request->socket_path);
	status = atoi(answer->data + 9);
	body += 4;
	length = answer->length - (size_t)(body - answer->data);
	if (status == 200 && (length == 0 || json_is_object(body, length))) {
		/* ADD must print a result; without one the runtime would take the pod for networkless. */
		if (length == 0 && request->command == ADD)
			fail(CNI_AGENT_ANSWER, "clustermesh-agent sent no result", "expected a CNI result for ADD");
		print_and_exit(body, length, 0);
	}
	if (status != 200 && json_is_object(body, length) && json_find(body, length, "code", &code))
		print_and_exit(body, length, 1);
	char details[64];

	snprintf(details, sizeof(details), "HTTP status %d with %zu bytes that are no CNI answer", status, length);
	fail(CNI_AGENT_ANSWER, "cannot understand clustermesh-agent's answer", details);
}

int main(void)
{
	struct request request = {
		.container_id = environment("CNI_CONTAINERID"),
		.netns = environment("CNI_NETNS"),
		.if_name = environment("CNI_IFNAME"),
		.args = environment("CNI_ARGS"),
		.path = environment("CNI_PATH"),
	};
	struct buffer input = { 0 }, answer = { 0 };
	int error;

	signal(SIGPIPE, SIG_IGN);
	request.command = parse_command();
	error = read_all(STDIN_FILENO, MAX_INPUT, now_ms() + TIMEOUT_MS, &input);
	if (error)
		failf(CNI_IO, "cannot read the configuration", "standard input: %s", strerror(error));
	request.config = input.data;
	request.config_length = input.length;
	/* Old runtimes ask for versions with nothing on standard input. */
	if (request.command == VERSION && input.length == 0)
		print_version();
	parse_config(&request);
	if (request.command == VERSION)
		print_version();
	check_environment(&request);
	error = ask_agent(&request, &answer);
	if (error)
		finish_without_agent(&request, error);
	finish_with_answer(&request, &answer);
}
