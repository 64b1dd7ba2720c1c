/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clustermesh-cni: chained CNI plugin (specification 0.3.1 to 1.1.0). It decides nothing: it passes the request to the agent's
 * unix socket, and prints the result of the plugins before it, to the byte, when the agent has taken the pod. One static
 * program, because hosts that run it need not have Node.
 *
 * Configuration:
 *   "socketPath"        the agent's socket; default /run/isthmus/agent.sock
 *   "agentDown"         what becomes of ADD without an agent: "wait" (default), then fail; or "open": the pod starts, reached
 *                       and protected by the other plugins alone, and the agent takes it over when it is there
 *   "agentDownTimeout"  how long ADD waits for an agent, such as "30s"; default 30s, with "open" 0s; at most 10m
 *
 * `clustermesh-cni --version`, which is nothing of CNI, prints the version.
 *
 * DEL and GC succeed without the agent: it finds out what is gone when it starts. Exit code 0, or 1 with a CNI error object
 * on standard output.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent-call.h"
#include "cni-error.h"
#include "cni-request.h"
#include "json-scan.h"
#include "opened-pod.h"

/* Given by scripts/build.sh, from package.json. */
#ifndef ISTHMUS_VERSION
#define ISTHMUS_VERSION "unknown"
#endif

#define DEFAULT_SOCKET "/run/isthmus/agent.sock"
#define MAX_CONFIG (1024 * 1024)
#define DEFAULT_WAIT_MS 30000
#define MAX_WAIT_MS 600000
/* Between two attempts to reach an agent that is being started. */
#define RETRY_MS 100
/* From include/linux/if.h: IFNAMSIZ - 1. */
#define MAX_IF_NAME 15

static const char *const versions[] = { "0.3.1", "0.4.0", "1.0.0", NEWEST_VERSION };

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

/* A duration as "500ms", "30s" or "2m" into milliseconds; -1 when it is none, or longer than MAX_WAIT_MS. */
static long long parse_duration(const char *text)
{
	long long value;
	char *unit;

	if (*text < '0' || *text > '9')
		return -1;
	errno = 0;
	value = strtoll(text, &unit, 10);
	if (errno || value > MAX_WAIT_MS)
		return -1;
	if (!strcmp(unit, "s"))
		value *= 1000;
	else if (!strcmp(unit, "m"))
		value *= 60000;
	else if (strcmp(unit, "ms") && !(value == 0 && *unit == '\0'))
		return -1;
	return value > MAX_WAIT_MS ? -1 : value;
}

static void parse_agent_down(struct request *request)
{
	struct json_span span;
	char text[16];

	if (json_find(request->config, request->config_length, "agentDown", &span)) {
		request->open_when_down = json_copy_string(span, text, sizeof(text)) && !strcmp(text, "open");
		if (!request->open_when_down && (!json_copy_string(span, text, sizeof(text)) || strcmp(text, "wait")))
			fail(CNI_BAD_CONFIG, "cannot use agentDown in the configuration",
			     "expected \"wait\" or \"open\"");
	}
	request->wait_ms = request->open_when_down ? 0 : DEFAULT_WAIT_MS;
	if (json_find(request->config, request->config_length, "agentDownTimeout", &span)) {
		request->wait_ms = json_copy_string(span, text, sizeof(text)) ? parse_duration(text) : -1;
		if (request->wait_ms < 0)
			fail(CNI_BAD_CONFIG, "cannot use agentDownTimeout in the configuration",
			     "expected a text such as \"500ms\", \"30s\" or \"2m\", at most \"10m\"");
	}
}

static void parse_config(struct request *request)
{
	struct json_span span;

	if (!json_is_object(request->config, request->config_length))
		fail(CNI_NOT_JSON, "cannot read the configuration", "standard input is not one JSON object");
	parse_version(request);
	strcpy(request->socket_path, DEFAULT_SOCKET);
	if (json_find(request->config, request->config_length, "socketPath", &span) &&
	    (!json_copy_string(span, request->socket_path, sizeof(request->socket_path)) ||
	     request->socket_path[0] != '/'))
		fail(CNI_BAD_CONFIG, "cannot use socketPath in the configuration",
		     "expected an absolute path of at most 107 bytes, without escapes");
	parse_agent_down(request);
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

static _Noreturn void print_and_exit(const char *text, size_t length, int exit_code)
{
	fwrite(text, 1, length, stdout);
	if (length > 0 && text[length - 1] != '\n')
		fputc('\n', stdout);
	if (fflush(stdout) != 0 || ferror(stdout))
		exit(1);
	exit(exit_code);
}

/* The result of the plugins before is ours: this one changes nothing of it. */
static _Noreturn void print_prev_result(const struct request *request)
{
	print_and_exit(request->prev_result.at, request->prev_result.length, 0);
}

static _Noreturn void finish_without_agent(const struct request *request, int error)
{
	char details[512];

	switch (request->command) {
	case DEL:
		forget_opened_pod(request);
		exit(0);
	case GC:
		exit(0);
	case STATUS:
		/* Pods can be started all the same: that is what "open" is for. */
		if (request->open_when_down)
			exit(0);
		break;
	default:
		break;
	}
	snprintf(details, sizeof(details),
		 "%s: %s; start clustermesh-agent on this node, or set socketPath in the network's configuration",
		 request->socket_path, strerror(error));
	fail(request->command == STATUS ? CNI_NOT_AVAILABLE : CNI_TRY_AGAIN, "cannot reach clustermesh-agent", details);
}

/* Prints what an HTTP answer says; what is no such answer is an error of its own. */
static _Noreturn void finish_with_answer(const struct request *request, const struct buffer *answer)
{
	const char *body = answer_body(answer);
	struct json_span code;
	char details[64];
	size_t length;
	int status;

	if (answer->length < 13 || memcmp(answer->data, "HTTP/1.", 7) != 0)
		failf(CNI_AGENT_ANSWER, "what answers is not clustermesh-agent",
		      "%s does not speak HTTP; set socketPath in the network's configuration", request->socket_path);
	status = atoi(answer->data + 9);
	length = answer->length - (size_t)(body - answer->data);
	if (status == 200 && (length == 0 || json_is_object(body, length))) {
		if (request->command == ADD)
			print_prev_result(request);
		exit(0);
	}
	if (status != 200 && json_is_object(body, length) && json_find(body, length, "code", &code))
		print_and_exit(body, length, 1);
	snprintf(details, sizeof(details), "HTTP status %d with %zu bytes that are no CNI answer", status, length);
	fail(CNI_AGENT_ANSWER, "cannot understand clustermesh-agent's answer", details);
}

/* Asks the agent; ADD until it answers or the time for that is over, anything else once. */
static int ask_patiently(const struct request *request, struct buffer *answer)
{
	long long until = now_ms() + (request->command == ADD ? request->wait_ms : 0);

	for (;;) {
		int error = ask_agent(request, answer);
		long long left = until - now_ms();
		struct timespec pause = { .tv_nsec = (left < RETRY_MS ? left : RETRY_MS) * 1000000 };

		if (!error || left <= 0)
			return error;
		nanosleep(&pause, NULL);
	}
}

/* The pod starts without the mesh, and the agent is left word of it. */
static _Noreturn void open_pod(const struct request *request, struct buffer *answer)
{
	int error = note_opened_pod(request);

	if (error)
		fprintf(stderr, "clustermesh-cni: cannot leave word of container %s for the agent: %s\n",
			request->container_id, strerror(error));
	/* An agent that has begun to listen since may have looked for such words before this one was there. */
	if (!error && ask_agent(request, answer) == 0) {
		forget_opened_pod(request);
		finish_with_answer(request, answer);
	}
	print_prev_result(request);
}

int main(int argc, char **argv)
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

	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		puts("clustermesh-cni " ISTHMUS_VERSION);
		return 0;
	}
	signal(SIGPIPE, SIG_IGN);
	request.command = parse_command();
	error = read_all(STDIN_FILENO, MAX_CONFIG, now_ms() + TIMEOUT_MS, &input);
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
	error = ask_patiently(&request, &answer);
	if (error && request.command == ADD && request.open_when_down)
		open_pod(&request, &answer);
	if (error)
		finish_without_agent(&request, error);
	finish_with_answer(&request, &answer);
}
