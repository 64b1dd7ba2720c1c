/** The filter behind `clustermesh kv decode`: pairs in, verdicts out, a JSON line each. */
import type { MaxConnectedClusters } from '../mesh/wire/ids.ts';
import { type Inspection, inspectPair, type PairKind } from '../mesh/wire/inspect.ts';
import { readLines } from './lines.ts';
import type { PipeWriter } from './pipe-writer.ts';

/** Longest line: the largest value that any kind may have, as base64 or escaped, beside its key. */
const MAX_LINE_BYTES = 64 * 1024 * 1024;

/** A pair as JSON lines carry it. */
export interface PairLine {
  readonly key: string;
  readonly value: string;
  /** Where the value is not text. */
  readonly encoding?: 'base64';
}

/** A verdict as JSON lines carry it. */
export interface VerdictLine {
  readonly key: string | null;
  readonly kind: PairKind;
  readonly cluster: string | null;
  readonly valid: boolean;
  readonly error: string | null;
  readonly value: string | null;
  readonly encoding?: 'base64';
  readonly content?: unknown;
}

/** How many lines there were. */
export interface DecodeResult {
  readonly lines: number;
  readonly invalid: number;
}

/** Decodes a stream of pairs. One bad line never stops it; a reader that leaves does. */
export async function decodeLines(
  input: AsyncIterable<Buffer>,
  output: PipeWriter,
  options: { readonly max: MaxConnectedClusters },
): Promise<DecodeResult> {
  let lines = 0;
  let invalid = 0;
  for await (const { number, bytes } of readLines(input, MAX_LINE_BYTES)) {
    if (bytes !== undefined && isBlank(bytes)) continue;
    const verdict =
      bytes === undefined
        ? refuseLine(number, `longer than ${MAX_LINE_BYTES} bytes`)
        : decodeLine(bytes, number, options.max);
    lines += 1;
    if (!verdict.valid) invalid += 1;
    await output.write(`${JSON.stringify(verdict)}\n`);
    if (output.isClosed) break;
  }
  await output.flush();
  return { lines, invalid };
}

/** A pair as a line; values that are no UTF-8 go as base64. */
export function pairLine(key: string, value: Buffer | string): PairLine {
  if (typeof value === 'string') return { key, value };
  const text = value.toString('utf8');
  // Go writes any bytes; what is not text would come back changed.
  return Buffer.from(text).equals(value)
    ? { key, value: text }
    : { key, value: value.toString('base64'), encoding: 'base64' };
}

function decodeLine(bytes: Buffer, number: number, max: MaxConnectedClusters): VerdictLine {
  let line: unknown;
  try {
    line = JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    return refuseLine(number, `not JSON (${error instanceof Error ? error.message : error})`);
  }
  if (typeof line !== 'object' || line === null || Array.isArray(line)) {
    return refuseLine(number, 'expected an object with key and value');
  }
  const key = 'key' in line ? line.key : undefined;
  const value = 'value' in line ? line.value : undefined;
  const encoding = 'encoding' in line ? line.encoding : undefined;
  if (typeof key !== 'string') return refuseLine(number, 'expected key to be a string');
  if (typeof value !== 'string') return refuseLine(number, 'expected value to be a string', key);
  if (encoding !== undefined && encoding !== 'base64' && encoding !== 'utf8') {
    return refuseLine(number, 'expected encoding to be base64, or none for text', key);
  }
  if (encoding !== 'base64') return verdictOf(key, inspectPair(key, value, max));
  const decoded = Buffer.from(value, 'base64');
  if (decoded.toString('base64') !== value) {
    return refuseLine(number, 'value is not base64, as encoding says', key);
  }
  return verdictOf(key, inspectPair(key, decoded, max));
}

function verdictOf(key: string, inspection: Inspection): VerdictLine {
  const { kind, cluster, error, value, content } = inspection;
  const encoded = value === undefined ? undefined : pairLine(key, value);
  return {
    key,
    kind,
    cluster: cluster ?? null,
    valid: error === undefined,
    error: error?.message ?? null,
    value: encoded?.value ?? null,
    ...(encoded?.encoding === undefined ? {} : { encoding: encoded.encoding }),
    ...(content === undefined ? {} : { content }),
  };
}

function refuseLine(number: number, why: string, key: string | null = null): VerdictLine {
  const error = `cannot read line ${number}: ${why}`;
  return { key, kind: 'unknown', cluster: null, valid: false, error, value: null };
}

function isBlank(bytes: Buffer): boolean {
  return bytes.every((byte) => byte === 0x20 || byte === 0x0d || byte === 0x09);
}
