/** The public keys that a machine has certificates for, as time passes and the machine changes. Pure. */
import type { MachineKey, MachineRecord } from './machine-record.ts';

/** Certificates of one machine that are valid at the same time: renewed at two thirds of their lives there are two. */
const MAX_KEYS = 32;
/** A clock that is set back makes a certificate valid again: so its key is kept in mind for longer than it is valid. */
const SLACK_MS = 7 * 86_400_000;

/**
 * Keys whose certificates may still be valid, and `key`, as the newest. Undefined when too many are valid already; of those that
 * have run out the latest stay.
 */
export function withKey(
  keys: readonly MachineKey[],
  key: MachineKey,
  now: number,
): readonly MachineKey[] | undefined {
  const others = liveKeys(keys, now)
    .filter(({ hash }) => hash !== key.hash)
    .sort((a, b) => a.expiresAt - b.expiresAt);
  const valid = others.filter(({ expiresAt }) => expiresAt > now);
  if (valid.length >= MAX_KEYS) return undefined;
  return [...others.slice(Math.max(0, others.length + 1 - MAX_KEYS)), key];
}

/** Keys whose certificates may still be valid. */
export function liveKeys(keys: readonly MachineKey[], now: number): readonly MachineKey[] {
  return keys.filter(({ expiresAt }) => expiresAt + SLACK_MS > now);
}

/** Whether nothing needs to be known any more of a machine that was removed. */
export function isForgettable(
  { removedAt, keys, revokedKeys }: MachineRecord,
  now: number,
): boolean {
  return removedAt !== undefined && liveKeys([...keys, ...revokedKeys], now).length === 0;
}

/** Text that differs when other certificates of a machine count. */
export function distrustOf(record: MachineRecord | undefined): string {
  if (record === undefined) return 'unknown';
  if (record.removedAt !== undefined) return 'removed';
  return record.revokedKeys.map(({ hash }) => hash).join();
}
