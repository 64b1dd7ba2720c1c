/** Networks that rules name. */
import {
  type IpPrefix,
  ipFamily,
  parseIpPrefix,
  prefixContains,
  splitPrefix,
} from '../../mesh/wire/ip.ts';
import { excerpt, WireError } from '../../mesh/wire/wire-error.ts';
import { listAt } from './manifest-field.ts';
import { PolicyError } from './policy-error.ts';
import type { PeerMatch } from './rule.ts';

/** Parses a network; with `bareAddress` an address alone is one of its whole length. Throws PolicyError. */
export function parseCidr(
  value: unknown,
  path: string,
  { bareAddress }: { bareAddress: boolean },
): IpPrefix {
  try {
    if (typeof value === 'string' && (bareAddress || value.includes('/')))
      return parseIpPrefix(value);
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
  }
  throw new PolicyError(
    'invalid',
    path,
    `is ${excerpt(value)}: expected ${bareAddress ? 'an address or ' : ''}a network such as 10.1.0.0/16`,
  );
}

/** The peer that a network means. One of length 0 is the world (Cilium's `CIDR.MatchesAll`). */
export function cidrPeer(prefix: IpPrefix, except: readonly IpPrefix[] = []): PeerMatch {
  if (except.length === 0 && splitPrefix(prefix).length === 0) {
    return { kind: 'world', family: ipFamily(prefix) };
  }
  return { kind: 'cidr', prefix, except };
}

/** Parses networks within another one that are taken out of it. Throws PolicyError. */
export function parseExceptions(value: unknown, path: string, within: IpPrefix): IpPrefix[] {
  return listAt(value, path).map((item, index) => {
    const at = `${path}[${index}]`;
    const except = parseCidr(item, at, { bareAddress: false });
    const { address, length } = splitPrefix(except);
    if (prefixContains(within, address) && length >= splitPrefix(within).length) return except;
    throw new PolicyError('invalid', at, `is ${except}, which does not lie in ${within}`);
  });
}
