/**
 * What becomes of a key of a backup where something stands already: what is there wins, and what either of them revokes is
 * revoked. Pure.
 */
import {
  type ClusterId,
  identityRange,
  type MaxConnectedClusters,
  MINIMUM_ALLOCATED_IDENTITY,
  makeIdentity,
} from '../../mesh/wire/ids.ts';
import { ALLOCATIONS_PREFIX } from '../publish/identity-places.ts';
import {
  decodeMachineRecord,
  encodeMachineRecord,
  MACHINES_PREFIX,
  type MachineKey,
  type MachineRecord,
  MachineRecordError,
} from './machine-record.ts';
import {
  decodeToken,
  decodeTokenUse,
  encodeToken,
  TOKEN_USES_PREFIX,
  TOKENS_PREFIX,
  tokenState,
} from './token-record.ts';

/** Keys that a backup holds. Everything else is made anew from its source, or is of the moment. */
export const BACKUP_PREFIXES: readonly string[] = [
  TOKENS_PREFIX,
  TOKEN_USES_PREFIX,
  MACHINES_PREFIX,
  ALLOCATIONS_PREFIX,
];

/** Who a token is revoked by that a restore voids. */
const RESTORER = 'restore';

/** What is to be done with a key. */
export type BackupMerge =
  | { readonly kind: 'write'; readonly value: string; readonly voidsToken: boolean }
  | { readonly kind: 'present' }
  /** It cannot be taken; `reason` is for people. */
  | { readonly kind: 'refused'; readonly reason: string };

/** What is merged, and with what. */
export interface MergeOptions {
  /** What stands under the key; undefined: nothing. */
  readonly present: string | undefined;
  /** Milliseconds since 1970. */
  readonly now: number;
  readonly clusterId: ClusterId;
  readonly maxConnectedClusters: MaxConnectedClusters;
}

/** Decides about one key. */
export function mergeBackup(
  record: { readonly key: string; readonly value: string },
  options: MergeOptions,
): BackupMerge {
  const { key, value } = record;
  if (key.startsWith(TOKENS_PREFIX)) return mergeToken(record, options);
  if (key.startsWith(MACHINES_PREFIX)) return mergeMachine(record, options);
  if (key.startsWith(TOKEN_USES_PREFIX)) {
    if (decodeTokenUse(value) === undefined) return refused('it is no use of a token');
    return options.present === undefined ? write(value) : { kind: 'present' };
  }
  if (key.startsWith(ALLOCATIONS_PREFIX)) return mergeIdentity(value, options);
  return refused('backups hold no such key');
}

function mergeToken(
  { key, value }: { readonly key: string; readonly value: string },
  { present, now }: MergeOptions,
): BackupMerge {
  const saved = decodeToken(value);
  if (saved === undefined || saved.id !== key.slice(TOKENS_PREFIX.length)) {
    return refused('it is no token');
  }
  if (present === undefined) {
    // Whether it was used after the backup was taken is not known.
    const isUsable = tokenState(saved, now) === 'usable';
    const revoked = isUsable ? { at: now, by: RESTORER } : saved.revoked;
    return { kind: 'write', value: encodeToken({ ...saved, revoked }), voidsToken: isUsable };
  }
  const current = decodeToken(present);
  if (current === undefined) return refused('what stands there is no token');
  const merged = {
    ...current,
    usesLeft: Math.min(current.usesLeft, saved.usesLeft),
    revoked: current.revoked ?? saved.revoked,
  };
  const text = encodeToken(merged);
  return text === encodeToken(current) ? { kind: 'present' } : write(text);
}

function mergeMachine(
  { key, value }: { readonly key: string; readonly value: string },
  { present, now }: MergeOptions,
): BackupMerge {
  const saved = decodeMachine(value);
  if (saved === undefined || saved.name !== key.slice(MACHINES_PREFIX.length)) {
    return refused('it is no machine');
  }
  if (present === undefined) return write(encodeMachineRecord(asAway(saved)));
  const current = decodeMachine(present);
  if (current === undefined) return refused('what stands there is no machine');
  const merged = encodeMachineRecord(mergeMachines(current, saved, now));
  return merged === encodeMachineRecord(current) ? { kind: 'present' } : write(merged);
}

/** Of the same name: the later enrolment counts, and every key that one of them has revoked is revoked. */
function mergeMachines(current: MachineRecord, saved: MachineRecord, now: number): MachineRecord {
  const isIn = (keys: readonly MachineKey[], hash: string): boolean =>
    keys.some((key) => key.hash === hash);
  const revokes = (keys: readonly MachineKey[]): MachineKey[] => {
    const all = new Map(
      [...current.revokedKeys, ...saved.revokedKeys, ...keys].map((one) => [one.hash, one]),
    );
    return [...all.values()].filter(({ expiresAt }) => expiresAt > now);
  };
  // The machine that is there was removed before the backup was taken, and its name given to another.
  if (isIn(saved.revokedKeys, current.publicKeyHash)) {
    return asAway({ ...saved, revokedKeys: revokes(current.keys) });
  }
  const isSame = isIn(saved.keys, current.publicKeyHash) || isIn(current.keys, saved.publicKeyHash);
  if (saved.removedAt === undefined) return { ...current, revokedKeys: revokes([]) };
  if (!isSame) return { ...current, revokedKeys: revokes(saved.keys) };
  const removedAt = current.removedAt ?? saved.removedAt;
  return { ...asAway(current), removedAt, revokedKeys: revokes([]) };
}

/** Without what it claimed: whether that still holds it says itself when it comes back. */
function asAway(record: MachineRecord): MachineRecord {
  return { ...record, addresses: [], checks: new Map() };
}

function mergeIdentity(value: string, options: MergeOptions): BackupMerge {
  const { clusterId, maxConnectedClusters, present } = options;
  const { last } = identityRange(clusterId, maxConnectedClusters);
  const first = makeIdentity(clusterId, MINIMUM_ALLOCATED_IDENTITY, maxConnectedClusters);
  const number = /^[1-9]\d{0,7}$/.test(value) ? Number(value) : Number.NaN;
  if (!(number >= first && number <= last)) {
    return refused(`identity ${JSON.stringify(value.slice(0, 20))} is not of this cluster's id`);
  }
  return present === undefined ? write(value) : { kind: 'present' };
}

function decodeMachine(value: string): MachineRecord | undefined {
  try {
    return decodeMachineRecord(value);
  } catch (error) {
    if (error instanceof MachineRecordError) return undefined;
    throw error;
  }
}

function write(value: string): BackupMerge {
  return { kind: 'write', value, voidsToken: false };
}

function refused(reason: string): BackupMerge {
  return { kind: 'refused', reason };
}
