/** What is kept of a token, and whether a machine may use it. Never its secret. Pure. */
import { z } from 'zod';
import { isTokenId } from '../../mesh/wire/enrollment-token.ts';
import { type IpPrefix, parseIpPrefix } from '../../mesh/wire/ip.ts';
import { REGISTRY_PREFIX } from '../../mesh/wire/keys.ts';

/** Where tokens are kept, by id. */
export const TOKENS_PREFIX = `${REGISTRY_PREFIX}tokens/`;
/** Who has used them: the token's id, then the machine's name. */
export const TOKEN_USES_PREFIX = `${REGISTRY_PREFIX}token-uses/`;

const SCHEMA = 1;

/** A token. Times are milliseconds since 1970. */
export interface TokenRecord {
  readonly id: string;
  /** SHA-256 of the secret, lower-case hex. */
  readonly hash: string;
  readonly createdAt: number;
  /** Common name of the caller who made it. */
  readonly createdBy: string;
  readonly expiresAt: number;
  readonly uses: number;
  readonly usesLeft: number;
  /** A machine's name, or a pattern with `*`. */
  readonly names: string;
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Networks that addresses have to be in; none: no network is ruled out. */
  readonly addressRanges: readonly IpPrefix[];
  readonly revoked: { readonly at: number; readonly by: string } | undefined;
}

/** One use of a token. */
export interface TokenUse {
  readonly machine: string;
  /** SHA-256 of the machine's public key (SPKI, DER), lower-case hex. */
  readonly keyHash: string;
  /** Milliseconds since 1970. */
  readonly at: number;
  /** Address that the call came from. */
  readonly from: string;
}

/** How a token stands. */
export type TokenState = 'usable' | 'used-up' | 'expired' | 'revoked';

const recordSchema = z.object({
  schema: z.literal(SCHEMA),
  id: z.string().refine(isTokenId, 'is no id of a token'),
  hash: z.string().regex(/^[0-9a-f]{64}$/),
  createdAt: z.number(),
  createdBy: z.string(),
  expiresAt: z.number(),
  uses: z.number(),
  usesLeft: z.number(),
  names: z.string(),
  namespace: z.string(),
  labels: z.record(z.string(), z.string()),
  addressRanges: z.array(z.string()),
  revokedAt: z.number().optional(),
  revokedBy: z.string().optional(),
});

const useSchema = z.object({
  schema: z.literal(SCHEMA),
  machine: z.string(),
  keyHash: z.string(),
  at: z.number(),
  from: z.string(),
});

/** Value under which a token is kept. */
export function encodeToken(record: TokenRecord): string {
  const { revoked, ...rest } = record;
  return JSON.stringify({
    schema: SCHEMA,
    ...rest,
    ...(revoked === undefined ? {} : { revokedAt: revoked.at, revokedBy: revoked.by }),
  });
}

/** Reads it back; undefined when it is no token: then it lets nobody in. */
export function decodeToken(value: string): TokenRecord | undefined {
  const result = recordSchema.safeParse(parseJson(value));
  if (!result.success) return undefined;
  const { schema: _schema, addressRanges, revokedAt, revokedBy, ...rest } = result.data;
  try {
    return {
      ...rest,
      addressRanges: addressRanges.map(parseIpPrefix),
      revoked: revokedAt === undefined ? undefined : { at: revokedAt, by: revokedBy ?? '' },
    };
  } catch {
    return undefined;
  }
}

/** Value under which a use is kept. */
export function encodeTokenUse(use: TokenUse): string {
  return JSON.stringify({ schema: SCHEMA, ...use });
}

/** Reads it back; undefined when it is no use of a token. */
export function decodeTokenUse(value: string): TokenUse | undefined {
  const result = useSchema.safeParse(parseJson(value));
  if (!result.success) return undefined;
  const { schema: _schema, ...use } = result.data;
  return use;
}

/** How a token stands at a time, milliseconds since 1970. */
export function tokenState(record: TokenRecord, now: number): TokenState {
  if (record.revoked !== undefined) return 'revoked';
  if (record.expiresAt <= now) return 'expired';
  return record.usesLeft > 0 ? 'usable' : 'used-up';
}

/** Whether a name fits a pattern, in which `*` stands for any number of characters. */
export function matchesNames(pattern: string, name: string): boolean {
  const [first = '', ...rest] = pattern.split('*');
  const last = rest.pop();
  if (last === undefined) return name === pattern;
  if (name.length < first.length + last.length) return false;
  if (!name.startsWith(first) || !name.endsWith(last)) return false;
  const end = name.length - last.length;
  let from = first.length;
  for (const part of rest) {
    const found = name.indexOf(part, from);
    if (found === -1 || found + part.length > end) return false;
    from = found + part.length;
  }
  return true;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
