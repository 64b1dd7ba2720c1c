/** Durations that may only be so long or so short. */
import { parseDuration } from '../mesh/runtime/option-parsers.ts';

/** Bounds of Cilium's `--kvstore-lease-ttl` (`pkg/kvstore`), in milliseconds. */
const MIN_LEASE_TTL_MS = 25_000;
const MAX_LEASE_TTL_MS = 24 * 3_600_000;

/** Parses how long a lease lives, into milliseconds. */
export function parseLeaseTtl(text: string): number {
  return parseBoundedDuration(text, {
    min: MIN_LEASE_TTL_MS,
    max: MAX_LEASE_TTL_MS,
    words: '25s to 24h',
  });
}

/** Parses a duration into milliseconds. Throws an Error that has `words` outside the bounds. */
export function parseBoundedDuration(
  text: string,
  bounds: { readonly min: number; readonly max: number; readonly words: string },
): number {
  const milliseconds = parseDuration(text);
  if (milliseconds < bounds.min || milliseconds > bounds.max) {
    throw new Error(`cannot use duration ${text}: expected ${bounds.words}`);
  }
  return milliseconds;
}
