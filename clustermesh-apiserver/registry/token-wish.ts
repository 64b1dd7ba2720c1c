/** What somebody asks for who makes a token, checked. Pure. */
import { z } from 'zod';
import { type IpPrefix, parseIpPrefix } from '../../mesh/wire/ip.ts';
import { findBadLabel } from './granted-labels.ts';
import { isMachineName } from './machine-record.ts';
import { TokenError } from './token-error.ts';

/** One hour. */
export const DEFAULT_TOKEN_TTL_SECONDS = 3600;
/** What is stolen shall not be of use for ever. */
export const MAX_TOKEN_TTL_SECONDS = 90 * 86_400;
export const MAX_TOKEN_USES = 10_000;
const MAX_RANGES = 64;

/** What a token is to grant. */
export interface TokenWish {
  readonly names: string;
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly addressRanges: readonly IpPrefix[];
  readonly ttlSeconds: number;
  readonly uses: number;
}

const requestSchema = z.object({
  names: z.string().default(''),
  labels: z.record(z.string(), z.string()).default({}),
  namespace: z.string().default(''),
  address_ranges: z.array(z.string()).default([]),
  ttl_seconds: z.number().default(0),
  uses: z.number().default(0),
});

/** Reads a CreateTokenRequest. Throws TokenError `invalid`, which says what is expected. */
export function parseTokenWish(message: unknown): TokenWish {
  const request = requestSchema.parse(message);
  const { names, labels, namespace } = request;
  const ttlSeconds = request.ttl_seconds === 0 ? DEFAULT_TOKEN_TTL_SECONDS : request.ttl_seconds;
  const uses = request.uses === 0 ? 1 : request.uses;
  if (!isNamePattern(names)) {
    throw invalid(
      `names: cannot take ${JSON.stringify(names.slice(0, 80))}: expected a machine's name, 1 to 63 of a-z, 0-9 and "-", or a pattern with "*" such as web-*`,
    );
  }
  if (uses > MAX_TOKEN_USES) throw invalid(`uses: expected 1 to ${MAX_TOKEN_USES}, not ${uses}`);
  if (uses > 1 && !names.includes('*')) {
    throw invalid(
      `uses: ${uses} machines cannot all be called ${names}; give a pattern such as ${names}-*`,
    );
  }
  if (ttlSeconds > MAX_TOKEN_TTL_SECONDS) {
    throw invalid(`ttl: expected at most ${MAX_TOKEN_TTL_SECONDS / 86_400} days`);
  }
  const given = namespace === '' ? 'default' : namespace;
  if (!isMachineName(given)) {
    throw invalid(`namespace: ${JSON.stringify(given.slice(0, 80))} is no name of a namespace`);
  }
  const badLabel = findBadLabel(labels);
  if (badLabel !== undefined) throw invalid(`labels: ${badLabel}`);
  return {
    names,
    namespace: given,
    labels,
    addressRanges: parseRanges(request.address_ranges),
    ttlSeconds,
    uses,
  };
}

function parseRanges(texts: readonly string[]): IpPrefix[] {
  if (texts.length > MAX_RANGES) {
    throw invalid(`address ranges: expected at most ${MAX_RANGES}, not ${texts.length}`);
  }
  return texts.map((text) => {
    try {
      return parseIpPrefix(text);
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new TokenError('invalid', `address ranges: ${why}`, { cause });
    }
  });
}

/** A name with `*` in it has to be one when each `*` stands for a letter. */
function isNamePattern(pattern: string): boolean {
  return pattern.length <= 63 && isMachineName(pattern.replaceAll('*', 'a'));
}

function invalid(message: string): TokenError {
  return new TokenError('invalid', message);
}
