/** The forms in which Cilium writes addresses and networks inside JSON: `net.IP` as text, `net.IPMask` as base64. */
import {
  type IpAddress,
  type IpPrefix,
  ipFamily,
  makePrefix,
  parseIpAddress,
  parseIpPrefix,
  splitPrefix,
} from './ip.ts';
import { type FieldPath, failField, fieldOf, parseField, readObject, readString } from './json.ts';

/** A network as Go's `net.IPNet` in JSON. */
export interface CidrJson {
  readonly IP: string;
  readonly Mask: string;
}

/** An address that may be absent: Go writes the empty string then. */
export function readOptionalIp(at: FieldPath, found: unknown): IpAddress | null {
  const text = readString(at, found);
  return text === '' ? null : parseField(at, text, parseIpAddress);
}

/** A network in either form: `{"IP","Mask"}`, or the string that later versions write. */
export function readOptionalCidr(at: FieldPath, found: unknown): IpPrefix | null {
  if (typeof found === 'string') return found === '' ? null : parseField(at, found, parseIpPrefix);
  const object = readObject(at, found);
  if (object === undefined) return null;
  const ipField = { key: at.key, field: `${at.field}.IP` };
  const address = parseField(ipField, readString(ipField, fieldOf(object, 'IP')), parseIpAddress);
  const maskField = { key: at.key, field: `${at.field}.Mask` };
  const length = readMaskLength(maskField, fieldOf(object, 'Mask'), address);
  if (length === undefined) failField(maskField, null, 'a base64 mask');
  return makePrefix(address, length);
}

/** Number of leading ones of a base64 mask; undefined when there is none. The family is that of `address`. */
export function readMaskLength(
  at: FieldPath,
  found: unknown,
  address: IpAddress,
): number | undefined {
  const text = readString(at, found);
  if (text === '') return undefined;
  const mask = Buffer.from(text, 'base64');
  // Buffer passes over what is no base64; Go refuses it.
  if (mask.toString('base64') !== text) failField(at, found, 'a base64 mask');
  const bytes = ipFamily(address) === 4 ? 4 : 16;
  if (mask.length !== bytes) failField(at, found, `a mask of ${bytes} bytes in base64`);
  const bits = [...mask].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  const length = bits.indexOf('0') === -1 ? bits.length : bits.indexOf('0');
  if (bits.slice(length).includes('1')) failField(at, found, 'a mask whose ones come first');
  return length;
}

/** Base64 mask of a prefix length. */
export function encodeMask(family: 4 | 6, length: number): string {
  const mask = Buffer.alloc(family === 4 ? 4 : 16);
  for (let index = 0; index < mask.length; index += 1) {
    const ones = Math.max(0, Math.min(8, length - index * 8));
    mask[index] = (0xff00 >> ones) & 0xff;
  }
  return mask.toString('base64');
}

/** Object form of a network, the one that every version of Cilium reads. */
export function encodeCidr(prefix: IpPrefix): CidrJson {
  const { address, length } = splitPrefix(prefix);
  return { IP: address, Mask: encodeMask(ipFamily(prefix), length) };
}
