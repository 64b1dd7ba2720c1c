import type { EtcdConnection } from './etcd-connection.ts';
import { decodeRangeAnswer, type EtcdHeader, type RangeAnswer } from './etcd-messages.ts';
import { KvError, type KvPair } from './kvstore.ts';

/** A range of keys: one key, or everything below a prefix. */
export type KeyTarget = { readonly prefix: string } | { readonly key: string };

/** What a list needs from the store. */
export interface ListOptions {
  readonly connection: EtcdConnection;
  /** Most keys in an answer; lowered where the values are too large for that. */
  readonly pageSize: number;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  /** Revision to read at; undefined: that of the first page. */
  readonly revision?: bigint | undefined;
  /** Most keys that are read. Default 2,000,000. */
  readonly maxKeys?: number | undefined;
  /** Leaves the values out. */
  readonly keysOnly?: boolean;
}

/** Twice as many as an agent keeps of one kind of one cluster: a server without end must end somewhere. */
const DEFAULT_MAX_KEYS = 2_000_000;
/** Kubernetes' names are shorter by far. */
const MOST_KEY_LENGTH = 4096;

/** One page. `header` is that of the first page: its revision is the revision of all of them. */
export interface ListPage {
  readonly header: EtcdHeader;
  readonly pairs: readonly KvPair[];
  /** Keys of the whole target as the server counts them. */
  readonly stated: number;
}

/** First and last (exclusive) key of a target, as etcd wants them; a single key has no end. */
export function keyRange(target: KeyTarget): { key: Buffer; range_end?: Buffer } {
  if ('key' in target) return { key: Buffer.from(target.key) };
  const end = Buffer.from(target.prefix);
  // A prefix ends in "/" (0x2f), so its last byte can always be raised by one.
  end[end.length - 1] = (end[end.length - 1] ?? 0) + 1;
  return { key: Buffer.from(target.prefix), range_end: end };
}

/** How a target is called in messages. */
export function targetName(target: KeyTarget): string {
  return 'prefix' in target ? target.prefix : target.key;
}

/**
 * Lists a target by pages, all at the revision of the first, the next page on its way while one is used. Throws
 * KvError: `compacted` when that revision was compacted away meanwhile, `cluster-changed` when another etcd answered.
 */
export async function* listPages(
  target: KeyTarget,
  options: ListOptions,
): AsyncGenerator<ListPage, void, undefined> {
  const { connection, maxKeys = DEFAULT_MAX_KEYS } = options;
  const doing = `list ${targetName(target)}`;
  const range = keyRange(target);
  let pageSize = options.pageSize;
  let first: EtcdHeader | undefined;
  let lastKey: string | undefined;
  let count = 0;
  let stated = 0;

  const fetch = async (after: string | undefined): Promise<RangeAnswer> => {
    const key = after === undefined ? range.key : Buffer.from(`${after}\0`);
    for (;;) {
      try {
        return await connection.range(
          {
            ...range,
            key,
            limit: String(pageSize),
            revision: String(options.revision ?? first?.revision ?? 0n),
            ...(options.keysOnly === true ? { keys_only: true } : {}),
          },
          {
            doing,
            decode: (bytes) => decodeRangeAnswer(bytes, pageSize),
            timeoutMs: options.timeoutMs,
            signal: options.signal,
          },
        );
      } catch (error) {
        const tooLarge = error instanceof KvError && error.code === 'too-large';
        if (!tooLarge || pageSize === 1) throw error;
        pageSize = Math.max(1, Math.floor(pageSize / 8));
      }
    }
  };

  let answer = await fetch(undefined);
  for (;;) {
    if (first === undefined) {
      first = answer.header;
      // Later pages count what follows them.
      stated = answer.count;
    }
    checkSameCluster(first, answer.header, doing);
    connection.seen(answer.header);
    checkKeys(target, answer, lastKey, doing);
    count += answer.pairs.length;
    if (count > maxKeys) {
      throw new KvError('too-large', `cannot ${doing}: it has more than ${maxKeys} keys`, {
        retryable: true,
      });
    }
    lastKey = answer.pairs.at(-1)?.key;
    if (!answer.more) {
      yield { header: first, pairs: answer.pairs, stated };
      return;
    }
    const next = fetch(lastKey);
    // It is awaited below; if the reader leaves first, its failure concerns nobody.
    next.catch(() => undefined);
    yield { header: first, pairs: answer.pairs, stated };
    answer = await next;
  }
}

/** Asks how many keys a prefix has. Throws KvError. */
export async function countKeys(
  prefix: string,
  options: ListOptions,
): Promise<{ count: number; revision: bigint }> {
  const { connection, revision = 0n, timeoutMs, signal } = options;
  const { header, count } = await connection.range(
    { ...keyRange({ prefix }), count_only: true, revision: String(revision) },
    { doing: `count ${prefix}`, decode: decodeRangeAnswer, timeoutMs, signal },
  );
  connection.seen(header);
  return { count, revision: revision === 0n ? header.revision : revision };
}

function checkSameCluster(first: EtcdHeader, header: EtcdHeader, doing: string): void {
  if (header.clusterId === first.clusterId && header.revision >= first.revision) return;
  throw new KvError(
    'cluster-changed',
    `cannot ${doing}: cluster ${first.clusterId} answered at revision ${first.revision}, then ` +
      `cluster ${header.clusterId} at revision ${header.revision}`,
    { retryable: true },
  );
}

/** A server that answers keys outside the range, the same page twice, or an empty page that promises more is not believed. */
function checkKeys(
  target: KeyTarget,
  answer: RangeAnswer,
  lastKey: string | undefined,
  doing: string,
): void {
  if (answer.header.clusterId === '0') {
    throw distrust(doing, 'the server answered without the id of its cluster');
  }
  if (answer.pairs.some(({ key }) => key.length > MOST_KEY_LENGTH)) {
    throw distrust(doing, `the server sent a key of more than ${MOST_KEY_LENGTH} characters`);
  }
  const unasked = answer.pairs.find(({ key }) => !isInTarget(target, key));
  if (unasked !== undefined) throw unaskedKey(doing, unasked.key);
  const firstKey = answer.pairs[0]?.key;
  if (firstKey === undefined && answer.more) {
    throw distrust(doing, 'the server promised more keys and sent none');
  }
  const repeats =
    firstKey !== undefined &&
    lastKey !== undefined &&
    Buffer.compare(Buffer.from(firstKey), Buffer.from(lastKey)) <= 0;
  if (repeats) throw distrust(doing, 'the server sent keys again that it had sent before');
}

/** Whether a key belongs to what was asked for. */
export function isInTarget(target: KeyTarget, key: string): boolean {
  return 'prefix' in target ? key.startsWith(target.prefix) : key === target.key;
}

/** The error for a key that nobody asked for. */
export function unaskedKey(doing: string, key: string): KvError {
  return distrust(
    doing,
    `the server sent key ${JSON.stringify(key.slice(0, 200))}, which was not asked for`,
  );
}

/** The error for an answer that no etcd would give. */
export function distrust(doing: string, why: string): KvError {
  return new KvError('invalid', `cannot ${doing}: ${why}`, { retryable: true });
}
