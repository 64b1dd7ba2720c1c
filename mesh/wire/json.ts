/**
 * Reading and writing JSON as Go's encoding/json does: readers match field names without regard to case, writers escape
 * `<`, `>` and `&` and sort the keys of maps.
 */
import { excerpt, WireError } from './wire-error.ts';

/** A parsed JSON object whose fields are still to be checked. */
export interface JsonObject {
  readonly [field: string]: unknown;
}

/** Where a value was found, for messages. */
export interface FieldPath {
  readonly key: string;
  readonly field: string;
}

const ARRAY_INDEX = /^(0|[1-9]\d*)$/;

/** Largest value accepted for kinds that etcd's own default limit bounds, in bytes. */
export const MAX_VALUE_BYTES = 1_572_864;

/** Parses a value that must be a JSON object. Throws WireError `too-large` or `bad-value`. */
export function parseJsonObject(
  value: Buffer | string,
  key: string,
  maxBytes = MAX_VALUE_BYTES,
): JsonObject {
  checkSize(value, key, maxBytes);
  let parsed: unknown;
  try {
    parsed = JSON.parse(typeof value === 'string' ? value : value.toString('utf8'));
  } catch (cause) {
    throw new WireError('bad-value', `cannot parse ${key}: not JSON (${messageOf(cause)})`, {
      key,
      cause,
    });
  }
  if (!isObject(parsed)) {
    throw new WireError(
      'bad-value',
      `cannot parse ${key}: ${excerpt(parsed)}, expected a JSON object`,
      { key },
    );
  }
  return parsed;
}

/** Throws WireError `too-large` for a value of more than `maxBytes` in UTF-8. */
export function checkSize(value: Buffer | string, key: string, maxBytes: number): void {
  const bytes = Buffer.byteLength(value);
  if (bytes <= maxBytes) return;
  throw new WireError(
    'too-large',
    `cannot parse ${key}: ${bytes} bytes, at most ${maxBytes} are accepted`,
    { key },
  );
}

/** Value of a field; Go also accepts a name that differs in case, so the exact name wins and any other comes second. */
export function fieldOf(object: JsonObject, name: string): unknown {
  if (Object.hasOwn(object, name)) return object[name];
  const lower = name.toLowerCase();
  for (const candidate of Object.keys(object)) {
    if (candidate.length === name.length && candidate.toLowerCase() === lower)
      return object[candidate];
  }
  return undefined;
}

/** Throws the WireError of a field that is not what was expected. */
export function failField(at: FieldPath, found: unknown, expected: string): never {
  throw new WireError(
    'bad-field',
    `cannot parse ${at.key}: field ${at.field} is ${excerpt(found)}, expected ${expected}`,
    { key: at.key, field: at.field },
  );
}

/** Runs a parser of a field's value; what it refuses names the field. */
export function parseField<T>(at: FieldPath, found: unknown, parse: (value: unknown) => T): T {
  try {
    return parse(found);
  } catch (cause) {
    throw new WireError(
      'bad-field',
      `cannot parse ${at.key}: field ${at.field}: ${messageOf(cause)}`,
      {
        key: at.key,
        field: at.field,
        cause,
      },
    );
  }
}

/** A string; absent and null are the empty string, as in Go. */
export function readString(at: FieldPath, found: unknown): string {
  if (found === undefined || found === null) return '';
  if (typeof found !== 'string') failField(at, found, 'a string');
  return found;
}

/** A string that may be left out. */
export function readOptionalString(at: FieldPath, found: unknown): string | undefined {
  const text = readString(at, found);
  return text === '' ? undefined : text;
}

/** A string that must be there and not be empty. `expected` says what it stands for. */
export function readRequiredString(at: FieldPath, found: unknown, expected: string): string {
  const text = readString(at, found);
  if (text === '') failField(at, text, expected);
  return text;
}

/** A boolean; absent and null are false. */
export function readBoolean(at: FieldPath, found: unknown): boolean {
  if (found === undefined || found === null) return false;
  if (typeof found !== 'boolean') failField(at, found, 'true or false');
  return found;
}

/** A whole number of 0 to `max`; absent and null are 0. */
export function readUint(at: FieldPath, found: unknown, max: number): number {
  if (found === undefined || found === null) return 0;
  if (typeof found !== 'number' || !Number.isInteger(found) || found < 0 || found > max) {
    failField(at, found, `a whole number of 0 to ${max}`);
  }
  return found;
}

/** An object; absent and null are undefined. */
export function readObject(at: FieldPath, found: unknown): JsonObject | undefined {
  if (found === undefined || found === null) return undefined;
  if (!isObject(found)) failField(at, found, 'an object');
  return found;
}

/** A list; absent and null are undefined. */
export function readArray(at: FieldPath, found: unknown): readonly unknown[] | undefined {
  if (found === undefined || found === null) return undefined;
  if (!Array.isArray(found)) failField(at, found, 'a list');
  return found;
}

/** A map of strings to strings; absent and null are null, which Go writes for a map that was never made. */
export function readStringMap(
  at: FieldPath,
  found: unknown,
): Readonly<Record<string, string>> | null {
  const object = readObject(at, found);
  if (object === undefined) return null;
  const map: Record<string, string> = {};
  for (const [name, value] of Object.entries(object)) {
    // The name of a field is made where something is wrong with it.
    const text =
      typeof value === 'string'
        ? value
        : readString({ key: at.key, field: `${at.field}[${JSON.stringify(name)}]` }, value);
    setOwn(map, name, text);
  }
  return map;
}

/** JSON text with the fields of objects in the order they have, the names of maps sorted, and Go's escapes. */
export function encodeGoJson(value: unknown): string {
  return writeJson(value).replace(/[<>&\u2028\u2029]/g, escapeAsGo);
}

/** The same entries with their names in the order of their bytes, which is how Go writes maps. */
export function sortedRecord<T>(entries: Iterable<readonly [string, T]>): Record<string, T> {
  const record: Record<string, T> = {};
  for (const [name, value] of [...entries].sort(([a], [b]) => compareBytes(a, b)))
    setOwn(record, name, value);
  return record;
}

/** Sets a property even where its name is one that objects give a meaning to, such as `__proto__`. */
export function setOwn<T>(record: Record<string, T>, name: string, value: T): void {
  if (name !== '__proto__') {
    // The usual way is ten times as fast.
    record[name] = value;
    return;
  }
  Object.defineProperty(record, name, {
    value,
    enumerable: true,
    configurable: true,
    writable: true,
  });
}

/** From here on, two units of a string may be one character. */
const FIRST_SURROGATE = 0xd800;

/** Order of two strings by their UTF-8 bytes, as Go compares them. Labels are sorted by it, by the hundred thousand. */
export function compareBytes(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let index = 0; index < length; index += 1) {
    const x = a.charCodeAt(index);
    const y = b.charCodeAt(index);
    if (x === y) continue;
    // Up to here a character is one unit of the string, and their order is that of the bytes.
    if (x < FIRST_SURROGATE && y < FIRST_SURROGATE) return x < y ? -1 : 1;
    return Buffer.compare(Buffer.from(a), Buffer.from(b));
  }
  return Math.sign(a.length - b.length);
}

function writeJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map((item) => writeJson(item)).join(',')}]`;
  if (typeof value === 'string') return writeText(value);
  // An undefined item of a list is null in JSON.
  if (!isObject(value)) return JSON.stringify(value) ?? 'null';
  const names = Object.keys(value);
  // A JavaScript object puts names that are array indices first, in the order of their numbers, whatever order they were
  // set in. No field is called so, hence the object is a map, and those are sorted by bytes.
  if (ARRAY_INDEX.test(names[0] ?? '')) names.sort(compareBytes);
  let text = '';
  for (const name of names) {
    const member = value[name];
    if (member === undefined) continue;
    text += `${text === '' ? '' : ','}${writeText(name)}:${writeJson(member)}`;
  }
  return `{${text}}`;
}

/** Half of a character outside the basic plane is no text to Go, which writes the replacement character for it. */
function writeText(text: string): string {
  const json = JSON.stringify(text);
  return json.includes('\\ud') ? JSON.stringify(Buffer.from(text).toString('utf8')) : json;
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function escapeAsGo(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
