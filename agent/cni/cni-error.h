/* SPDX-License-Identifier: Apache-2.0 */
/* What the container runtime is told when a request fails: the error object of the CNI specification. */
#ifndef ISTHMUS_CNI_ERROR_H
#define ISTHMUS_CNI_ERROR_H

#include <stdio.h>
#include <stdlib.h>

#define NEWEST_VERSION "1.1.0"

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

/* What errors are printed with: the configuration's version once it is known. */
static char cni_version[16] = NEWEST_VERSION;

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

#endif
