/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Just enough JSON for a program that passes texts on: checks that a text is well formed, finds members of its outermost
 * object, and writes strings. Nothing is allocated; a span points into the text it was found in.
 */
#ifndef ISTHMUS_JSON_SCAN_H
#define ISTHMUS_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Deeper nesting is refused: the scanner recurses. No CNI configuration comes near it. */
#define JSON_MAX_DEPTH 64

struct json_span {
	const char *at;
	size_t length;
};

static const char *json_skip_blank(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
		p++;
	return p;
}

static bool json_is_hex(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* Each of these returns the end of what it skipped, or NULL when it is not well formed. */
static const char *json_skip_string(const char *p, const char *end)
{
	if (p >= end || *p != '"')
		return NULL;
	for (p++; p < end; p++) {
		if (*p == '"')
			return p + 1;
		if ((unsigned char)*p < 0x20)
			return NULL;
		if (*p != '\\')
			continue;
		if (++p >= end)
			return NULL;
		if (*p == 'u') {
			for (int i = 1; i <= 4; i++)
				if (end - p <= i || !json_is_hex(p[i]))
					return NULL;
			p += 4;
		} else if (*p == '\0' || !strchr("\"\\/bfnrt", *p)) {
			return NULL;
		}
	}
	return NULL;
}

static const char *json_skip_digits(const char *p, const char *end)
{
	const char *start = p;

	while (p < end && *p >= '0' && *p <= '9')
		p++;
	return p == start ? NULL : p;
}

static const char *json_skip_number(const char *p, const char *end)
{
	if (p < end && *p == '-')
		p++;
	if (p < end && *p == '0')
		p++;
	else if (!(p = json_skip_digits(p, end)))
		return NULL;
	if (p < end && *p == '.' && !(p = json_skip_digits(p + 1, end)))
		return NULL;
	if (p < end && (*p == 'e' || *p == 'E')) {
		p++;
		if (p < end && (*p == '+' || *p == '-'))
			p++;
		p = json_skip_digits(p, end);
	}
	return p;
}

static const char *json_skip_word(const char *p, const char *end, const char *word)
{
	size_t length = strlen(word);

	return (size_t)(end - p) >= length && memcmp(p, word, length) == 0 ? p + length : NULL;
}

static const char *json_skip_value(const char *p, const char *end, int depth);

/* Skips an object, or an array when `close` is ']'. */
static const char *json_skip_container(const char *p, const char *end, int depth, char close)
{
	if (depth >= JSON_MAX_DEPTH)
		return NULL;
	p = json_skip_blank(p + 1, end);
	if (p < end && *p == close)
		return p + 1;
	for (;;) {
		if (close == '}') {
			p = json_skip_string(json_skip_blank(p, end), end);
			if (!p)
				return NULL;
			p = json_skip_blank(p, end);
			if (p >= end || *p++ != ':')
				return NULL;
		}
		p = json_skip_value(json_skip_blank(p, end), end, depth + 1);
		if (!p)
			return NULL;
		p = json_skip_blank(p, end);
		if (p >= end)
			return NULL;
		if (*p == close)
			return p + 1;
		if (*p++ != ',')
			return NULL;
	}
}

static const char *json_skip_value(const char *p, const char *end, int depth)
{
	if (p >= end)
		return NULL;
	switch (*p) {
	case '{':
		return json_skip_container(p, end, depth, '}');
	case '[':
		return json_skip_container(p, end, depth, ']');
	case '"':
		return json_skip_string(p, end);
	case 't':
		return json_skip_word(p, end, "true");
	case 'f':
		return json_skip_word(p, end, "false");
	case 'n':
		return json_skip_word(p, end, "null");
	default:
		return json_skip_number(p, end);
	}
}

/* True when the text is one well formed JSON object and nothing else. */
static bool json_is_object(const char *text, size_t length)
{
	const char *end = text + length;
	const char *p = json_skip_blank(text, end);

	if (p >= end || *p != '{')
		return false;
	p = json_skip_value(p, end, 0);
	return p && json_skip_blank(p, end) == end;
}

/*
 * Finds a member of the outermost object, which `json_is_object` has accepted; of equal names the last counts, as for Go and
 * JavaScript. Names written with escapes are not recognised.
 */
static bool json_find(const char *text, size_t length, const char *name, struct json_span *found)
{
	const char *end = text + length;
	const char *p = json_skip_blank(json_skip_blank(text, end) + 1, end);
	size_t name_length = strlen(name);
	bool is_found = false;

	while (p < end && *p == '"') {
		const char *key = p + 1;
		const char *value;

		p = json_skip_string(p, end);
		value = json_skip_blank(json_skip_blank(p, end) + 1, end);
		if ((size_t)(p - 1 - key) == name_length && memcmp(key, name, name_length) == 0)
			is_found = true;
		else
			key = NULL;
		p = json_skip_value(value, end, 1);
		if (key) {
			found->at = value;
			found->length = (size_t)(p - value);
		}
		p = json_skip_blank(p, end);
		if (p >= end || *p != ',')
			break;
		p = json_skip_blank(p + 1, end);
	}
	return is_found;
}

/* Copies a string without escapes into `out`; false when it is no string, has escapes, or does not fit. */
static bool json_copy_string(struct json_span span, char *out, size_t size)
{
	if (span.length < 2 || span.at[0] != '"' || span.length - 2 >= size)
		return false;
	if (memchr(span.at, '\\', span.length))
		return false;
	memcpy(out, span.at + 1, span.length - 2);
	out[span.length - 2] = '\0';
	return true;
}

#endif
