/**
 * What is kept of machines, as etcd holds it: known as a whole to every replica, and written by compare-and-swap, since a person,
 * the machine's own registry and the leader may write one record at the same time.
 */
import { type KvCompare, KvError, type KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import {
  decodeMachineRecord,
  encodeMachineRecord,
  MACHINES_PREFIX,
  type MachineRecord,
  MachineRecordError,
} from './machine-record.ts';

/** Attempts at a record that others write at the same time. */
const MAX_ATTEMPTS = 8;

/** What became of a change. */
export type WriteOutcome<Refusal> =
  | { readonly kind: 'written'; readonly record: MachineRecord }
  | { readonly kind: 'refused'; readonly refusal: Refusal }
  /** A further condition did not hold. */
  | { readonly kind: 'fenced' };

/** Makes a record of the present one, or refuses to. */
export type MachineChange<Refusal> = (
  record: MachineRecord | undefined,
) => { readonly record: MachineRecord } | { readonly refusal: Refusal };

/** The records. Whatever writes rejects with KvError while etcd does not answer. */
export interface MachineRecords {
  get(name: string): MachineRecord | undefined;
  readonly all: Iterable<MachineRecord>;
  /** Reads everything. */
  load(signal: AbortSignal): Promise<void>;
  /** Writes a change; made anew for each attempt, of what is there then. */
  change<Refusal>(
    name: string,
    change: MachineChange<Refusal>,
    options: { readonly signal: AbortSignal; readonly compare?: readonly KvCompare[] },
  ): Promise<WriteOutcome<Refusal>>;
  /**
   * Counts as if a change had been written, until the returned function is called: between the look at who holds an address and
   * the answer of etcd nobody else shall be given it.
   */
  assume(name: string, change: (record: MachineRecord) => MachineRecord): () => void;
  /** Forgets a record that has not changed meanwhile. */
  delete(name: string, options: { readonly signal: AbortSignal }): Promise<void>;
  /** Takes what etcd tells. */
  take(name: string, value: string | undefined, modRevision: bigint): void;
  /** Whatever etcd tells from now on is newer than all that is known. */
  restart(): void;
  /** etcd has lost a record: it is kept in mind. */
  lose(name: string): void;
  /** Writes again what was lost, where `isOurs` says so. */
  writeLost(isOurs: (name: string) => boolean, signal: AbortSignal): Promise<void>;
}

interface Kept {
  readonly record: MachineRecord;
  /** 0: etcd does not hold it. */
  readonly modRevision: bigint;
}

/** Makes an empty book of records; `onChange` is told each one that is another now. */
export function createMachineRecords(options: {
  readonly store: KvStore;
  readonly onChange: (name: string, record: MachineRecord | undefined) => void;
  readonly logger: Logger;
}): MachineRecords {
  const { store, onChange, logger } = options;
  const kept = new Map<string, Kept>();
  const assumed = new Map<string, (record: MachineRecord) => MachineRecord>();
  /** What `onChange` was told last. */
  const told = new Map<string, string>();
  const lost = new Set<string>();

  const current = (name: string): MachineRecord | undefined => {
    const found = kept.get(name);
    return found === undefined ? undefined : (assumed.get(name)?.(found.record) ?? found.record);
  };
  const tell = (name: string): void => {
    const record = current(name);
    const text = record === undefined ? undefined : encodeMachineRecord(record);
    if (told.get(name) === text) return;
    if (text === undefined) told.delete(name);
    else told.set(name, text);
    onChange(name, record);
  };
  const set = (name: string, next: Kept | undefined): void => {
    if (next === undefined) kept.delete(name);
    else kept.set(name, next);
    tell(name);
  };
  const decode = (name: string, value: string): MachineRecord | undefined => {
    try {
      const record = decodeMachineRecord(value);
      if (record.name === name) return record;
      throw new MachineRecordError(`it is of a machine ${record.name}`);
    } catch (error) {
      if (!(error instanceof MachineRecordError)) throw error;
      logger.error({ machine: name, err: error }, 'cannot read what is kept of a machine');
      return undefined;
    }
  };
  const take = (name: string, value: string | undefined, modRevision: bigint): void => {
    const known = kept.get(name);
    if (known !== undefined && known.modRevision >= modRevision) return;
    lost.delete(name);
    if (value === undefined) {
      set(name, undefined);
      return;
    }
    const record = decode(name, value);
    if (record === undefined) {
      // What was known of it stays; a change of it shall replace what cannot be read.
      if (known !== undefined) kept.set(name, { record: known.record, modRevision });
      return;
    }
    set(name, { record, modRevision });
  };
  /** Reads a record of which another writer knows more. */
  const readAgain = async (name: string, signal: AbortSignal): Promise<void> => {
    const pair = await store.get(MACHINES_PREFIX + name, { signal });
    if (pair !== undefined) take(name, pair.value.toString('utf8'), pair.modRevision);
    else if (kept.get(name)?.modRevision !== 0n) set(name, undefined);
  };
  const change: MachineRecords['change'] = async (name, make, { signal, compare = [] }) => {
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
      const before = kept.get(name);
      const made = make(before?.record);
      if ('refusal' in made) return { kind: 'refused', refusal: made.refusal };
      const { record } = made;
      const value = encodeMachineRecord(record);
      const revision = before?.modRevision ?? 0n;
      if (before !== undefined && revision !== 0n && encodeMachineRecord(before.record) === value) {
        return { kind: 'written', record };
      }
      const key = MACHINES_PREFIX + name;
      const unchanged: KvCompare =
        revision === 0n ? { key, exists: false } : { key, modRevision: revision };
      const answer = await store.transact(
        { compare: [unchanged, ...compare], then: [{ kind: 'put', key, value }] },
        { signal },
      );
      if (answer.succeeded) {
        lost.delete(name);
        const known = kept.get(name)?.modRevision ?? 0n;
        if (known < answer.revision) set(name, { record, modRevision: answer.revision });
        return { kind: 'written', record };
      }
      await readAgain(name, signal);
      if ((kept.get(name)?.modRevision ?? 0n) === revision) return { kind: 'fenced' };
    }
    const message = `machine ${name} is changed by others all the time: tried ${MAX_ATTEMPTS} times, try again`;
    throw new KvError('unavailable', message, { retryable: true });
  };

  return {
    get: current,
    get all() {
      return [...kept.keys()].flatMap((name) => current(name) ?? []);
    },
    async load(signal) {
      const { pairs } = await store.list(MACHINES_PREFIX, { signal });
      for (const { key, value, modRevision } of pairs) {
        take(key.slice(MACHINES_PREFIX.length), value.toString('utf8'), modRevision);
      }
    },
    change,
    assume(name, make) {
      assumed.set(name, make);
      tell(name);
      return () => {
        if (assumed.get(name) !== make) return;
        assumed.delete(name);
        tell(name);
      };
    },
    async delete(name, { signal }) {
      const known = kept.get(name);
      if (known === undefined) return;
      const { modRevision } = known;
      const key = MACHINES_PREFIX + name;
      const { succeeded } = await store.transact(
        { compare: [{ key, modRevision }], then: [{ kind: 'delete', key }] },
        { signal },
      );
      if (succeeded && kept.get(name) === known) set(name, undefined);
    },
    take,
    restart() {
      for (const [name, { record }] of kept) kept.set(name, { record, modRevision: 0n });
    },
    lose(name) {
      const known = kept.get(name);
      if (known === undefined) return;
      kept.set(name, { record: known.record, modRevision: 0n });
      lost.add(name);
    },
    async writeLost(isOurs, signal) {
      for (const name of [...lost]) {
        if (!isOurs(name)) continue;
        await change<never>(
          name,
          (record) => {
            if (record === undefined) throw new Error(`machine ${name} was lost and is not known`);
            return { record };
          },
          { signal },
        );
        lost.delete(name);
      }
    },
  };
}
