/** One peer in the local etcd: what etcd shall hold of it, and the order in which that is written. */
import type { KvPair } from '../../mesh/kvstore/kvstore.ts';
import { MIRRORED_KINDS } from '../../mesh/remote/cluster-sink.ts';
import { type ClusterConfig, encodeClusterConfig } from '../../mesh/wire/cluster-config.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import { parseIpPrefix } from '../../mesh/wire/ip.ts';
import { encodeTimestamp } from '../../mesh/wire/timestamp.ts';
import { WireError } from '../../mesh/wire/wire-error.ts';
import { untilAnswered } from '../publish/until-answered.ts';
import { createCacheKeys, type MirroredKind } from './cache-key.ts';
import { createEntryQueue, type EntryQueue } from './entry-queue.ts';
import type { LeaderTerm } from './leader.ts';
import { createMirrorTable, type MirrorEntry, type MirrorTable } from './mirror-table.ts';
import { createMirrorWriter, type MirrorWriterContext } from './mirror-writer.ts';
import { createWake } from './wake.ts';

/** Bytes in one request, well below etcd's default limit of 1.5 MiB. */
const BYTES_PER_BATCH = 1_000_000;
/** Requests at a time until the peer is complete; readers wait for the markers, so their order does not matter. */
const WIDTH_WHILE_INCOMPLETE = 4;

/** A peer as far as it is in the local etcd, for people. */
export interface PeerMirrorStatus {
  /** Keys that the local etcd shall hold of the peer. */
  readonly keys: number;
  /** Keys whose write is still to be done. */
  readonly pending: number;
  /** Keys written since this process began. */
  readonly written: number;
  /** Kinds that are wholly in the local etcd, with their marker. */
  readonly complete: readonly MirroredKind[];
  /** Keys whose value the local etcd does not take, with its words. */
  readonly refused: Readonly<Record<string, string>>;
  /** Why the latest write failed; undefined when it did not. */
  readonly lastError: string | undefined;
}

/** The mirror of one peer. Calls that change it return at once. */
export interface PeerMirror {
  readonly name: ClusterName;
  /** The peer's configuration was accepted. `off` are the kinds that it does not publish. */
  configure(config: ClusterConfig, off: readonly MirroredKind[]): void;
  put(kind: MirroredKind, name: string, entry: { suffix: string; value: Buffer }): void;
  remove(kind: MirroredKind, name: string): void;
  /** The source has told everything of a kind. */
  sourceSynced(kind: MirroredKind): void;
  /** The source will be read by somebody who knows nothing of what was told before. */
  beginAnew(): void;
  /** Ends a removal, wherever it is. */
  comeBack(): void;
  /** Steps of a removal, in this order. Each resolves when it is done in etcd, and rejects when `signal` aborts. */
  removeConfig(signal: AbortSignal): Promise<void>;
  removeMarkers(signal: AbortSignal): Promise<void>;
  removeEntries(signal: AbortSignal): Promise<void>;
  /** Compares with the local etcd, then writes, until the term is over or `signal` aborts. */
  write(term: LeaderTerm, signal: AbortSignal): Promise<void>;
  /** The lease was lost: everything is written again. */
  rewrite(): void;
  readonly status: PeerMirrorStatus;
}

/** A kind with its entries, and what its marker waits for. */
interface KindState {
  readonly kind: MirroredKind;
  readonly table: MirrorTable;
  readonly marker: string;
  /** The source has told everything, or publishes no such kind. */
  isToldWhole: boolean;
  /** It has a marker, or gets one as soon as all that was outstanding is in etcd. */
  wantsMarker: boolean;
}

/** Makes the mirror of a peer; it writes nothing before `write`. */
export function createPeerMirror(
  name: ClusterName,
  context: MirrorWriterContext & {
    /** Told when etcd holds everything that was told. */
    readonly onFlushed?: (peer: ClusterName) => void;
  },
): PeerMirror {
  const { clock, lease, store } = context;
  const logger = context.logger.child({ cluster: name });
  const keys = createCacheKeys(name);
  const wake = createWake();
  const first = createEntryQueue();
  const rest = createEntryQueue();
  const flushes = new Set<() => void>();
  let generation = 0;
  /** Compared with etcd in this term. */
  let isAdopted = false;
  /** How far a removal is. */
  let removed: 'nothing' | 'config' | 'markers' | 'entries' = 'nothing';
  let latestConfig: Buffer | undefined;
  /** The configuration is on its way: what it describes follows it. */
  let isAlone = false;

  const enqueueTo = (queue: EntryQueue) => (entry: MirrorEntry) => {
    queue.push(entry);
    wake.ring();
  };
  const config = createMirrorTable({ prefix: keys.config, enqueue: enqueueTo(first) });
  const markers = createMirrorTable({ prefix: keys.markers, enqueue: enqueueTo(rest) });
  const kinds = MIRRORED_KINDS.map((kind): KindState => {
    const names = kind === 'ips' ? { nameOf: addressName } : {};
    const prefix = keys.prefix(kind);
    return {
      kind,
      table: createMirrorTable({ prefix, enqueue: enqueueTo(rest), ...names }),
      marker: keys.marker(kind),
      isToldWhole: false,
      wantsMarker: false,
    };
  });
  const byKind = new Map(kinds.map((state) => [state.kind, state]));
  const stateOf = (kind: MirroredKind): KindState => {
    const state = byKind.get(kind);
    if (state === undefined) throw new RangeError(`kind ${kind} is not mirrored`);
    return state;
  };

  /** Wants the markers of kinds of which nothing is outstanding. */
  const mark = (): void => {
    for (const { table, marker, wantsMarker } of kinds) {
      if (!wantsMarker || table.awaiting > 0 || markers.has(marker)) continue;
      markers.put(marker, marker, Buffer.from(encodeTimestamp(clock.now())));
    }
  };
  const finish = (state: KindState): void => {
    state.isToldWhole = true;
    if (!isAdopted) return;
    const swept = state.table.sweep();
    if (swept > 0)
      logger.info({ kind: state.kind, swept }, 'leftovers of an earlier mirror removed');
    state.wantsMarker = true;
    if (!markers.has(state.marker)) state.table.awaitPending();
    mark();
  };

  const adopt = async (signal: AbortSignal): Promise<void> => {
    const found = await store.get(keys.config, { signal });
    const foundMarkers = await store.list(keys.markers, { signal });
    const lists: (readonly KvPair[])[] = [];
    for (const { table } of kinds) lists.push((await store.list(table.prefix, { signal })).pairs);
    config.adopt(found === undefined ? [] : [found], lease.id);
    latestConfig ??= found?.value;
    // A marker on another lease is made anew behind the data that is, too.
    markers.forget();
    markers.adopt(
      foundMarkers.pairs.filter((pair) => pair.lease === lease.id),
      lease.id,
    );
    kinds.forEach((state, index) => {
      state.table.adopt(lists[index] ?? [], lease.id);
      const marker = keys.markers + state.marker;
      if (foundMarkers.pairs.some(({ key }) => key === marker)) state.wantsMarker = true;
      if (state.wantsMarker && !markers.has(state.marker)) state.table.awaitPending();
    });
    isAdopted = true;
    withdraw();
    for (const state of kinds) if (state.isToldWhole) finish(state);
    mark();
  };

  /** Wants gone what the removal has come to; also what was only found now. */
  const withdraw = (): void => {
    if (removed === 'nothing') return;
    config.removeAll();
    if (removed === 'config') return;
    for (const state of kinds) {
      state.wantsMarker = false;
      state.isToldWhole = false;
    }
    markers.removeAll();
    if (removed === 'entries') for (const { table } of kinds) table.removeAll();
  };
  const beginAnew = (): void => {
    for (const state of kinds) {
      state.table.unconfirm();
      state.isToldWhole = false;
    }
  };

  const writer = createMirrorWriter(
    {
      wake,
      get pending() {
        return first.length + rest.length;
      },
      get width() {
        if (isAlone) return 1;
        return kinds.every(({ marker }) => markers.holds(marker)) ? 1 : WIDTH_WHILE_INCOMPLETE;
      },
      get generation() {
        return generation;
      },
      take(limit) {
        const alone = takeFrom(first, limit);
        isAlone = alone.length > 0;
        return isAlone ? alone : takeFrom(rest, limit);
      },
      giveBack(entries) {
        isAlone = false;
        for (const entry of entries) entry.table.failed(entry);
        const isConfig = entries[0]?.table === config;
        (isConfig ? first : rest).unshift(entries);
      },
      wrote() {
        isAlone = false;
        mark();
      },
      idle() {
        context.onFlushed?.(name);
        for (const resolve of flushes) resolve();
        flushes.clear();
      },
    },
    { ...context, logger },
  );
  const flushed = (signal: AbortSignal): Promise<void> =>
    new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason);
      const done = (): void => {
        signal.removeEventListener('abort', onAbort);
        resolve();
      };
      const onAbort = (): void => {
        flushes.delete(done);
        reject(signal.reason);
      };
      flushes.add(done);
      signal.addEventListener('abort', onAbort, { once: true });
      wake.ring();
    });

  return {
    name,
    configure(next, off) {
      const capabilities = { ...next.capabilities, cached: true, syncedCanaries: true };
      latestConfig = Buffer.from(encodeClusterConfig({ ...next, capabilities }));
      config.put('', '', latestConfig);
      for (const kind of off) {
        const state = stateOf(kind);
        state.table.unconfirm();
        finish(state);
      }
    },
    put: (kind, entryName, { suffix, value }) => stateOf(kind).table.put(entryName, suffix, value),
    remove: (kind, entryName) => stateOf(kind).table.remove(entryName),
    sourceSynced: (kind) => finish(stateOf(kind)),
    beginAnew,
    comeBack() {
      removed = 'nothing';
      beginAnew();
      if (latestConfig !== undefined) config.put('', '', latestConfig);
    },
    async removeConfig(signal) {
      removed = 'config';
      withdraw();
      await flushed(signal);
    },
    async removeMarkers(signal) {
      removed = 'markers';
      withdraw();
      await flushed(signal);
    },
    async removeEntries(signal) {
      removed = 'entries';
      withdraw();
      await flushed(signal);
    },
    async write(term, outer) {
      const signal = AbortSignal.any([outer, term.over]);
      isAdopted = false;
      try {
        const release = await context.slots.acquire(signal);
        try {
          await untilAnswered(() => adopt(signal), { clock, logger, signal });
        } finally {
          release();
        }
      } catch (error) {
        if (signal.aborted) return;
        throw error;
      }
      await writer.run(term, signal);
    },
    rewrite() {
      generation += 1;
      config.rewrite();
      markers.forget();
      for (const { table, wantsMarker } of kinds) {
        table.rewrite();
        if (wantsMarker) table.awaitPending();
      }
      mark();
    },
    get status() {
      const { written, refused, lastError } = writer.status;
      return {
        keys: kinds.reduce((sum, { table }) => sum + table.size, 0),
        pending: first.length + rest.length,
        written,
        complete: kinds.filter(({ marker }) => markers.holds(marker)).map(({ kind }) => kind),
        refused: Object.fromEntries(refused),
        lastError,
      };
    },
  };
}

/** Takes what goes into one request. */
function takeFrom(queue: EntryQueue, limit: number): MirrorEntry[] {
  const entries: MirrorEntry[] = [];
  let bytes = 0;
  for (let next = queue.peek(); next !== undefined; next = queue.peek()) {
    bytes += next.table.prefix.length + next.suffix.length + (next.value?.length ?? 0);
    if (entries.length > 0 && (entries.length >= limit || bytes > BYTES_PER_BATCH)) break;
    queue.shift();
    const entry = next.table.take(next);
    if (entry !== undefined) entries.push(entry);
  }
  return entries;
}

/** Canonical text of an address; undefined for what no source could have named. */
function addressName(suffix: string): string | undefined {
  try {
    return parseIpPrefix(suffix);
  } catch (error) {
    if (error instanceof WireError) return undefined;
    throw error;
  }
}
