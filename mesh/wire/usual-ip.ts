/**
 * Reading of addresses in the very form in which Cilium up to 1.20 writes those of pods (`pkg/identity.IPIdentityPair`,
 * encoding/json): known fields in their order, no escapes, IPv4. It is what nearly every value of a large mesh looks
 * like; anything else is left to the general decoder, so both give the same for every value.
 */
import { parseNumericIdentity } from './ids.ts';
import { makePrefix, parseIpv4 } from './ip.ts';
import type { IpIdentity } from './ip-identity.ts';

/** Longer ones are not usual. */
const MOST_BYTES = 4096;
const HEAD = Buffer.from('{"IP":"');
const MASK = Buffer.from('","Mask":null,"HostIP":"');
const IDENTITY = Buffer.from('","ID":');
const KEY = Buffer.from(',"Key":');
const METADATA = Buffer.from(',"Metadata":"');
const NAMESPACE = Buffer.from('","K8sNamespace":"');
const POD = Buffer.from('","K8sPodName":"');
const ACCOUNT = Buffer.from('","K8sServiceAccount":"');
const END = Buffer.from('"}');
const QUOTE = 34;
const BACKSLASH = 92;
const SPACE = 32;
const TILDE = 126;
const ZERO = 48;
const NINE = 57;

/** Decodes a value of the usual form; undefined for any other. */
export function decodeUsualIp(bytes: Buffer): IpIdentity | undefined {
  if (bytes.length > MOST_BYTES || !isAt(bytes, 0, HEAD)) return undefined;
  const text = bytes.toString('latin1');
  let start = HEAD.length;
  let end = endOfString(bytes, start);
  const address = parseIpv4(text.slice(start, end));
  if (address === undefined || !isAt(bytes, end, MASK)) return undefined;
  start = end + MASK.length;
  end = endOfString(bytes, start);
  const hostIp = end === start ? null : parseIpv4(text.slice(start, end));
  if (hostIp === undefined || !isAt(bytes, end, IDENTITY)) return undefined;
  start = end + IDENTITY.length;
  end = endOfNumber(bytes, start);
  const identity = readNumber(bytes, start, end, 0xffffff);
  if (identity === undefined || !isAt(bytes, end, KEY)) return undefined;
  start = end + KEY.length;
  end = endOfNumber(bytes, start);
  const encryptionKey = readNumber(bytes, start, end, 255);
  if (encryptionKey === undefined || !isAt(bytes, end, METADATA)) return undefined;
  start = end + METADATA.length;
  end = endOfString(bytes, start);
  const metadata = text.slice(start, end);
  let namespace: string | undefined;
  let podName: string | undefined;
  let serviceAccount: string | undefined;
  if (isAt(bytes, end, NAMESPACE)) {
    start = end + NAMESPACE.length;
    end = endOfString(bytes, start);
    if (end > start) namespace = text.slice(start, end);
  }
  if (isAt(bytes, end, POD)) {
    start = end + POD.length;
    end = endOfString(bytes, start);
    if (end > start) podName = text.slice(start, end);
  }
  if (isAt(bytes, end, ACCOUNT)) {
    start = end + ACCOUNT.length;
    end = endOfString(bytes, start);
    if (end > start) serviceAccount = text.slice(start, end);
  }
  if (!isAt(bytes, end, END) || end + END.length !== bytes.length) return undefined;
  return {
    prefix: makePrefix(address, 32),
    isCidr: false,
    hostIp,
    identity: parseNumericIdentity(identity),
    encryptionKey,
    metadata,
    namespace,
    podName,
    serviceAccount,
    namedPorts: undefined,
  };
}

/** Whether a word stands at a place. */
function isAt(bytes: Buffer, at: number, word: Buffer): boolean {
  if (at + word.length > bytes.length) return false;
  for (let index = 0; index < word.length; index += 1) {
    if (bytes[at + index] !== word[index]) return false;
  }
  return true;
}

/** Where a string ends: at its quote, or at what is not plain ASCII or JSON would have to unescape. */
function endOfString(bytes: Buffer, start: number): number {
  let end = start;
  for (; end < bytes.length; end += 1) {
    const byte = bytes[end] ?? 0;
    if (byte === QUOTE || byte === BACKSLASH || byte < SPACE || byte > TILDE) break;
  }
  return end;
}

function endOfNumber(bytes: Buffer, start: number): number {
  let end = start;
  for (; end < bytes.length; end += 1) {
    const byte = bytes[end] ?? 0;
    if (byte < ZERO || byte > NINE) break;
  }
  return end;
}

/** A whole number as JSON writes it; undefined for other bytes, or when it is too large. */
function readNumber(bytes: Buffer, start: number, end: number, max: number): number | undefined {
  const length = end - start;
  if (length === 0 || length > 8 || (length > 1 && bytes[start] === ZERO)) return undefined;
  let value = 0;
  for (let index = start; index < end; index += 1) value = value * 10 + (bytes[index] ?? 0) - ZERO;
  return value <= max ? value : undefined;
}
