import ipaddr from 'ipaddr.js';
import type { Brand } from './brand.ts';
import { excerpt, WireError } from './wire-error.ts';

/** An IP address in canonical text (RFC 5952); an IPv4 address mapped into IPv6 is the IPv4 address. */
export type IpAddress = Brand<string, 'IpAddress'>;
/** A network as `address/length` with the host bits cleared. */
export type IpPrefix = Brand<string, 'IpPrefix'>;

const ZERO = 48;
const DOT = 46;

/** Parses an address without zone or mask. Throws WireError `bad-value`. */
export function parseIpAddress(text: unknown): IpAddress {
  if (typeof text === 'string') {
    const fast = parseIpv4(text);
    if (fast !== undefined) return fast;
    const groups = text.includes('%') ? undefined : hexGroups(text);
    if (groups !== undefined && ipaddr.IPv6.isValid(groups)) {
      return canonical(ipaddr.IPv6.parse(groups));
    }
  }
  throw new WireError(
    'bad-value',
    `cannot parse ${excerpt(text)}: expected an IPv4 or IPv6 address`,
  );
}

/** Parses `address/length`; a bare address is a network of its whole length. Throws WireError `bad-value`. */
export function parseIpPrefix(text: unknown): IpPrefix {
  if (typeof text !== 'string') {
    throw new WireError(
      'bad-value',
      `cannot parse ${excerpt(text)}: expected a prefix such as 10.1.0.0/16`,
    );
  }
  const slash = text.indexOf('/');
  if (slash === -1) {
    const address = parseIpAddress(text);
    return makePrefix(address, ipFamily(address) === 4 ? 32 : 128);
  }
  const length = text.slice(slash + 1);
  if (!/^(0|[1-9]\d{0,2})$/.test(length)) {
    throw new WireError(
      'bad-value',
      `cannot parse ${excerpt(text)}: expected a prefix length behind "/"`,
    );
  }
  return makePrefix(parseIpAddress(text.slice(0, slash)), Number(length));
}

/** Whether an address or prefix is IPv4 or IPv6. */
export function ipFamily(ip: IpAddress | IpPrefix): 4 | 6 {
  return ip.includes(':') ? 6 : 4;
}

/** The 4 or 16 bytes of an address, in network order. */
export function ipToBytes(ip: IpAddress): Uint8Array {
  if (ipFamily(ip) === 4) {
    const number = ipv4Number(ip);
    return Uint8Array.of(number >>> 24, (number >>> 16) & 255, (number >>> 8) & 255, number & 255);
  }
  return Uint8Array.from(ipaddr.IPv6.parse(ip).toByteArray());
}

/** Address of 4 or 16 bytes in network order. Throws WireError `bad-value` for any other length. */
export function ipFromBytes(bytes: Uint8Array): IpAddress {
  if (bytes.length === 4) return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}` as IpAddress;
  if (bytes.length === 16) return canonical(new ipaddr.IPv6([...bytes]));
  throw new WireError(
    'bad-value',
    `cannot make an address of ${bytes.length} bytes: expected 4 or 16`,
  );
}

/** Address and length of a prefix. */
export function splitPrefix(prefix: IpPrefix): { address: IpAddress; length: number } {
  const slash = prefix.indexOf('/');
  return { address: prefix.slice(0, slash) as IpAddress, length: Number(prefix.slice(slash + 1)) };
}

/** Prefix of `length` bits around an address; bits behind it are cleared. Throws WireError `bad-value`. */
export function makePrefix(address: IpAddress, length: number): IpPrefix {
  const bits = ipFamily(address) === 4 ? 32 : 128;
  if (!Number.isInteger(length) || length < 0 || length > bits) {
    throw new WireError(
      'bad-value',
      `cannot make prefix ${address}/${length}: expected a length of 0 to ${bits}`,
    );
  }
  if (length === bits) return `${address}/${length}` as IpPrefix;
  if (bits === 32) {
    // A shift by 32 is a shift by none.
    const number = length === 0 ? 0 : ipv4Number(address) & (-1 << (32 - length));
    const start = `${number >>> 24}.${(number >>> 16) & 255}.${(number >>> 8) & 255}`;
    return `${start}.${number & 255}/${length}` as IpPrefix;
  }
  const bytes = ipToBytes(address);
  for (let index = 0; index < bytes.length; index += 1) {
    const keep = Math.max(0, Math.min(8, length - index * 8));
    bytes[index] = (bytes[index] ?? 0) & (0xff00 >> keep) & 0xff;
  }
  return `${bytesToText(bytes)}/${length}` as IpPrefix;
}

/** Whether `address` lies in `prefix`. Different families never do. */
export function prefixContains(prefix: IpPrefix, address: IpAddress): boolean {
  if (ipFamily(prefix) !== ipFamily(address)) return false;
  const { address: network, length } = splitPrefix(prefix);
  if (ipFamily(prefix) === 6) return makePrefix(address, length) === prefix;
  // The bits in which they differ, and of them those that the network is about.
  return length === 0 || (ipv4Number(network) ^ ipv4Number(address)) >>> (32 - length) === 0;
}

/** The 32 bits of a canonical IPv4 address. Digit by digit, because addresses come by the hundred thousand. */
function ipv4Number(address: IpAddress): number {
  let number = 0;
  let part = 0;
  for (let index = 0; index < address.length; index += 1) {
    const code = address.charCodeAt(index);
    if (code === DOT) {
      number = number * 256 + part;
      part = 0;
    } else part = part * 10 + code - ZERO;
  }
  return number * 256 + part;
}

/** An IPv4 address, or undefined for any other text. Digit by digit, because addresses come by the hundred thousand. */
export function parseIpv4(text: string): IpAddress | undefined {
  if (text.length < 7 || text.length > 15) return undefined;
  let dots = 0;
  let digits = 0;
  let part = 0;
  for (let index = 0; index < text.length; index += 1) {
    const digit = text.charCodeAt(index) - ZERO;
    if (digit >= 0 && digit <= 9) {
      // Leading zeros are refused, as Go does: elsewhere they mean octal.
      if (digits > 0 && part === 0) return undefined;
      part = part * 10 + digit;
      digits += 1;
      if (part > 255) return undefined;
    } else if (digit === DOT - ZERO && digits > 0) {
      dots += 1;
      digits = 0;
      part = 0;
    } else return undefined;
  }
  return dots === 3 && digits > 0 ? (text as IpAddress) : undefined;
}

/**
 * IPv6 text with a dotted tail turned into groups: the library's own reading of such tails takes `::1.2.3.4` for
 * 1.2.3.4 and leading zeros for octal. Undefined for text that is not IPv6.
 */
function hexGroups(text: string): string | undefined {
  const tail = text.lastIndexOf(':') + 1;
  if (tail === 0) return undefined;
  if (!text.includes('.')) return text;
  const ipv4 = parseIpv4(text.slice(tail));
  if (ipv4 === undefined) return undefined;
  const [a = 0, b = 0, c = 0, d = 0] = ipToBytes(ipv4);
  return `${text.slice(0, tail)}${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`;
}

function canonical(address: ipaddr.IPv6): IpAddress {
  if (address.isIPv4MappedAddress()) return address.toIPv4Address().toString() as IpAddress;
  return address.toRFC5952String() as IpAddress;
}

/** Unlike `ipFromBytes`, keeps sixteen bytes an IPv6 address, so that a cleared mapped prefix does not change family. */
function bytesToText(bytes: Uint8Array): string {
  return bytes.length === 4 ? ipFromBytes(bytes) : new ipaddr.IPv6([...bytes]).toRFC5952String();
}
