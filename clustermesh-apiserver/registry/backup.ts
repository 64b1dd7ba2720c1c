/** What has no other source than the etcd, told to an administrator and taken back from one. */
import {
  type ServerReadableStream,
  type ServerWritableStream,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js';
import { z } from 'zod';
import { type KvCompare, KvError, type KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import { parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { ALLOCATIONS_PREFIX, isFree } from '../publish/identity-places.ts';
import { BACKUP_PREFIXES, mergeBackup } from './backup-merge.ts';
import { CallError } from './unary-call.ts';

const SCHEMA = 1;
const MAX_NOTES = 100;
const MAX_KEY_CHARS = 4096;
/** Others may write the same key meanwhile. */
const MAX_ATTEMPTS = 10;

const messageSchema = z.object({
  header: z
    .object({
      schema: z.number().default(0),
      cluster_name: z.string().default(''),
      cluster_id: z.number().default(0),
    })
    .optional(),
  record: z
    .object({ key: z.string().min(1).max(MAX_KEY_CHARS), value: z.instanceof(Buffer).optional() })
    .optional(),
  end: z.object({ records: z.coerce.number().default(0) }).optional(),
});

/** RestoreResponse of registry.proto. */
export interface RestoreOutcome {
  readonly restored: number;
  readonly present: number;
  readonly refused: number;
  readonly voided_tokens: number;
  readonly notes: readonly string[];
}

/** Tells and takes back. Both reject with CallError for what the caller did, KvError while etcd does not answer. */
export interface Backups {
  /** Hands every message of a backup to `send`, which resolves when there is room for the next. */
  backup(send: (message: object) => Promise<void>, signal: AbortSignal): Promise<void>;
  /** Takes the messages of one; nothing is written for one of another cluster, or without a header. */
  restore(messages: AsyncIterable<unknown>, signal: AbortSignal): Promise<RestoreOutcome>;
}

/** Makes the backups of a store. */
export function createBackups(options: {
  readonly store: KvStore;
  readonly cluster: { readonly name: ClusterName; readonly id: ClusterId };
  readonly maxConnectedClusters: MaxConnectedClusters;
  readonly clock: Clock;
  readonly logger: Logger;
}): Backups {
  const { store, cluster, maxConnectedClusters, clock, logger } = options;

  const merge = async (
    record: { readonly key: string; readonly value: string },
    signal: AbortSignal,
  ): Promise<ReturnType<typeof mergeBackup>> => {
    const { key } = record;
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
      const pair = await store.get(key, { signal });
      const merged = mergeBackup(record, {
        present: pair?.value.toString('utf8'),
        now: clock.now(),
        clusterId: cluster.id,
        maxConnectedClusters,
      });
      if (merged.kind !== 'write') return merged;
      const stands: KvCompare =
        pair === undefined ? { key, exists: false } : { key, modRevision: pair.modRevision };
      const isIdentity = key.startsWith(ALLOCATIONS_PREFIX);
      // A number that others have by now stays theirs: these labels are given another one.
      const free = isIdentity ? isFree(parseNumericIdentity(Number(merged.value))) : [];
      const { succeeded } = await store.transact(
        { compare: [stands, ...free], then: [{ kind: 'put', key, value: merged.value }] },
        { signal },
      );
      if (succeeded) return merged;
      if (isIdentity && (await store.get(key, { signal })) === undefined) {
        return { kind: 'refused', reason: `number ${merged.value} has been given to others` };
      }
    }
    throw new KvError('unavailable', `key ${key} is changed by others all the time`, {
      retryable: true,
    });
  };

  return {
    async backup(send, signal) {
      const { name: cluster_name, id: cluster_id } = cluster;
      const taken_at = clock.now();
      await send({ header: { schema: SCHEMA, cluster_name, cluster_id, taken_at } });
      let records = 0;
      for (const prefix of BACKUP_PREFIXES) {
        const { pairs } = await store.list(prefix, { signal });
        for (const { key, value } of pairs) {
          await send({ record: { key, value } });
          records += 1;
        }
      }
      await send({ end: { records } });
      logger.info({ records }, 'a backup was taken');
    },
    async restore(messages, signal) {
      const counts = { restored: 0, present: 0, refused: 0, voided_tokens: 0 };
      const notes: string[] = [];
      let hasHeader = false;
      let records = 0;
      for await (const message of messages) {
        const parsed = messageSchema.safeParse(message);
        if (!parsed.success) throw invalid('a message of the backup is malformed');
        const { header, record, end } = parsed.data;
        if (!hasHeader) {
          checkHeader(header, cluster);
          hasHeader = true;
          continue;
        }
        if (record !== undefined) {
          records += 1;
          const { key, value = Buffer.alloc(0) } = record;
          const merged = await merge({ key, value: value.toString('utf8') }, signal);
          if (merged.kind === 'refused') {
            counts.refused += 1;
            if (notes.length < MAX_NOTES) notes.push(`${key}: ${merged.reason}`);
          } else if (merged.kind === 'present') counts.present += 1;
          else {
            counts.restored += 1;
            if (merged.voidsToken) counts.voided_tokens += 1;
          }
        }
        if (end !== undefined) {
          if (end.records !== records) {
            throw invalid(`the backup says that it has ${end.records} records, ${records} came`);
          }
          logger.info({ ...counts }, 'a backup was restored');
          return { ...counts, notes };
        }
      }
      throw invalid('the backup ended before its last message');
    },
  };
}

function checkHeader(
  header: z.infer<typeof messageSchema>['header'],
  cluster: { readonly name: string; readonly id: number },
): void {
  if (header === undefined) throw invalid('expected the header of a backup first');
  if (header.schema !== SCHEMA) {
    throw invalid(
      `schema ${header.schema} of the backup is not known, expected ${SCHEMA}: restore it with the version that made it`,
    );
  }
  if (header.cluster_name !== cluster.name || header.cluster_id !== cluster.id) {
    throw new CallError(
      status.FAILED_PRECONDITION,
      `the backup is of cluster ${JSON.stringify(header.cluster_name)} with id ${header.cluster_id}, this is ${cluster.name} with id ${cluster.id}: nothing was changed`,
    );
  }
}

function invalid(details: string): CallError {
  return new CallError(status.INVALID_ARGUMENT, details);
}

/** Handlers of Admin.Backup and Admin.Restore. `admit` throws CallError for who may not, and says until when an answer is worth giving. */
export function backupHandlers(
  backups: Backups | undefined,
  admit: (call: AnyCall) => AbortSignal,
): {
  Backup(call: ServerWritableStream<unknown, unknown>): void;
  Restore(call: ServerReadableStream<unknown, unknown>, callback: sendUnaryData<unknown>): void;
} {
  const begin = (call: AnyCall): { readonly backups: Backups; readonly signal: AbortSignal } => {
    const gone = new AbortController();
    call.on('cancelled', () => gone.abort());
    const signal = AbortSignal.any([admit(call), gone.signal]);
    if (backups !== undefined) return { backups, signal };
    throw new CallError(status.UNIMPLEMENTED, 'this registry keeps nothing to back up');
  };
  return {
    Backup(call) {
      const run = async (): Promise<void> => {
        const { backups: offered, signal } = begin(call);
        const send = async (message: object): Promise<void> => {
          signal.throwIfAborted();
          if (!call.write(message)) await drained(call, signal);
        };
        await offered.backup(send, signal);
        call.end();
      };
      run().catch((error: unknown) => call.emit('error', toStatus(error)));
    },
    Restore(call, callback) {
      const run = async (): Promise<RestoreOutcome> => {
        const { backups: offered, signal } = begin(call);
        return offered.restore(call, signal);
      };
      run().then(
        (outcome) => callback(null, outcome),
        (error: unknown) => callback(toStatus(error)),
      );
    },
  };
}

type AnyCall = ServerWritableStream<unknown, unknown> | ServerReadableStream<unknown, unknown>;

function drained(call: ServerWritableStream<unknown, unknown>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    call.once('drain', () => {
      signal.removeEventListener('abort', onAbort);
      resolve();
    });
  });
}

function toStatus(error: unknown): { readonly code: status; readonly details: string } {
  if (error instanceof CallError) return { code: error.code, details: error.details };
  if (error instanceof KvError) {
    return { code: status.UNAVAILABLE, details: `etcd does not answer (${error.code}): try again` };
  }
  const details = error instanceof Error ? error.message : String(error);
  return { code: status.INTERNAL, details: `the registry has failed: ${details}` };
}
