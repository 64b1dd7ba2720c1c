/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pods that were started without the agent are noted in a folder beside its socket, a file each, so that it takes them over
 * as soon as it is there, and says so until then. The file holds the request as the agent would have got it.
 */
#ifndef ISTHMUS_OPENED_POD_H
#define ISTHMUS_OPENED_POD_H

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cni-request.h"

/* The agent looks there, too: openOpenedPods() in agent/endpoints/opened-pods.ts. */
#define OPENED_SUFFIX ".opened"

struct opened_path {
	char folder[sizeof(((struct request *)0)->socket_path) + sizeof(OPENED_SUFFIX)];
	char file[PATH_MAX];
	/* What becomes the file when it is whole; no container's name begins with a dot. */
	char draft[PATH_MAX];
};

static bool opened_path_of(const struct request *request, struct opened_path *path)
{
	int length;

	snprintf(path->folder, sizeof(path->folder), "%s" OPENED_SUFFIX, request->socket_path);
	snprintf(path->file, sizeof(path->file), "%s/%s:%s", path->folder, request->container_id, request->if_name);
	length = snprintf(path->draft, sizeof(path->draft), "%s/.%s:%s", path->folder, request->container_id,
			  request->if_name);
	return length > 0 && (size_t)length < sizeof(path->draft);
}

static int write_file(const char *path, const struct buffer *content)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	size_t done = 0;
	int error = 0;

	if (fd < 0)
		return errno;
	while (!error && done < content->length) {
		ssize_t count = write(fd, content->data + done, content->length - done);

		if (count > 0)
			done += (size_t)count;
		else if (errno != EINTR)
			error = errno;
	}
	if (!error && fsync(fd) != 0)
		error = errno;
	if (close(fd) != 0 && !error)
		error = errno;
	return error;
}

/* Makes the folder and, after a boot that no agent has seen yet, the one that the socket will be in. */
static int make_folder(const char *folder)
{
	char parent[sizeof(((struct opened_path *)0)->folder)];
	char *slash;

	if (mkdir(folder, 0700) == 0 || errno == EEXIST)
		return 0;
	if (errno != ENOENT)
		return errno;
	strcpy(parent, folder);
	slash = strrchr(parent, '/');
	*slash = '\0';
	if (mkdir(parent, 0755) != 0 && errno != EEXIST)
		return errno;
	return mkdir(folder, 0700) == 0 || errno == EEXIST ? 0 : errno;
}

/* Notes the pod; a reader finds the whole file or none. 0, or an errno. */
static int note_opened_pod(const struct request *request)
{
	struct buffer body = { 0 };
	struct opened_path path;
	int error;

	if (!opened_path_of(request, &path))
		return ENAMETOOLONG;
	error = make_folder(path.folder);
	if (error)
		return error;
	build_body(request, &body);
	error = write_file(path.draft, &body);
	free(body.data);
	if (!error && rename(path.draft, path.file) != 0)
		error = errno;
	if (error)
		unlink(path.draft);
	return error;
}

/* The pod has gone, or is known to the agent. That it was not noted is no error. */
static void forget_opened_pod(const struct request *request)
{
	struct opened_path path;

	if (opened_path_of(request, &path))
		unlink(path.file);
}

#endif
