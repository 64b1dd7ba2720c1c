/**
 * Fair turns for clusters that all speak at once. What a watch tells goes through a bounded queue, in which a later change
 * of a key takes the place of an earlier one, and clusters are served in turn, each for a short time: one that floods
 * slows itself alone, since nothing more is taken from its connection while its queue is full.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { KvEvent } from '../kvstore/kvstore.ts';

/** What is done with the events of a lane. A promise keeps the lane, and no other, waiting. */
export interface LaneHandler {
  event(event: KvEvent): Promise<void> | undefined;
  /** Changes up to this revision are not handed over one by one. */
  blurred(revision: bigint): void;
  /** Some events were handed over, and others have their turn now. */
  rested(): void;
}

/** The queue of one watch. */
export interface Lane {
  /** Queues events; resolves when there is room for more. Rejects with what the handler threw. */
  push(events: readonly KvEvent[]): Promise<void>;
  /** Events that wait. */
  queued(): number;
  /** Drops what is queued, and waits for what is being handled. */
  close(): Promise<void>;
}

/** What a cluster's lanes have seen. */
export interface IntakeStatus {
  /** Events that wait now. */
  readonly queued: number;
  /** Changes that a later one replaced before they were looked at, since the process began. */
  readonly coalesced: number;
  /** How often a connection had to wait for room, since the process began. */
  readonly paused: number;
}

/** Shares one thread between clusters. */
export interface Intake {
  open(cluster: string, handler: LaneHandler): Lane;
  status(cluster: string): IntakeStatus;
  /** Forgets the counts of a cluster. */
  forget(cluster: string): void;
}

/** Bounds, with defaults for an agent. */
export interface IntakeOptions {
  /** Events that one lane may hold. Default 4096. */
  readonly maxEvents?: number;
  /** Bytes of values that one lane may hold. Default 8 MiB. */
  readonly maxBytes?: number;
  /** Milliseconds of one cluster's turn. Default 2. */
  readonly turnMs?: number;
  readonly now?: () => number;
}

/** Milliseconds of work before timers and sockets are served. */
const SLICE_MS = 4;
/** Events between two looks at the clock. */
const EVENTS_PER_LOOK = 32;
/** Most events of a cluster's turn, for a clock that stands still. */
const EVENTS_PER_TURN = 1024;
/** Events taken from the connections of one cluster before timers and sockets are served. */
const PULLED_PER_SLICE = 2048;

interface Queue {
  readonly handler: LaneHandler;
  events: (KvEvent | undefined)[];
  head: number;
  /** Where the pending change of each key stands, counted from the first event ever. */
  readonly places: Map<string, number>;
  /** Events that were taken out of `events` before its first. */
  base: number;
  bytes: number;
  isListing: boolean;
  isBusy: boolean;
  isClosed: boolean;
  failure: { readonly error: unknown } | undefined;
  readonly waiting: Set<() => void>;
}

interface Cluster {
  readonly queues: Queue[];
  isReady: boolean;
  pulled: number;
  coalesced: number;
  paused: number;
}

/** Makes one with no lanes. */
export function createIntake(options: IntakeOptions = {}): Intake {
  const { maxEvents = 4096, maxBytes = 8 * 1024 * 1024, turnMs = 2 } = options;
  const now = options.now ?? (() => performance.now());
  const clusters = new Map<string, Cluster>();
  const ready: Cluster[] = [];
  let running = false;
  let sliceTaken: Promise<void> | undefined;

  const clusterOf = (name: string): Cluster => {
    const found = clusters.get(name);
    if (found !== undefined) return found;
    const made: Cluster = { queues: [], isReady: false, pulled: 0, coalesced: 0, paused: 0 };
    clusters.set(name, made);
    return made;
  };
  const isFull = (queue: Queue): boolean =>
    queue.events.length - queue.head >= maxEvents || queue.bytes >= maxBytes;
  const hasWork = (queue: Queue): boolean => !queue.isBusy && queue.head < queue.events.length;
  const wake = (queue: Queue): void => {
    for (const resolve of [...queue.waiting]) resolve();
    queue.waiting.clear();
  };
  const changed = (queue: Queue): Promise<void> =>
    new Promise((resolve) => {
      queue.waiting.add(resolve);
    });

  const take = (queue: Queue): KvEvent | undefined => {
    const event = queue.events[queue.head];
    queue.events[queue.head] = undefined;
    queue.head += 1;
    if (queue.head === queue.events.length) {
      queue.base += queue.head;
      queue.events = [];
      queue.head = 0;
      queue.places.clear();
    } else if (queue.head >= EVENTS_PER_TURN && queue.head * 2 > queue.events.length) {
      queue.base += queue.head;
      queue.events = queue.events.slice(queue.head);
      queue.head = 0;
    }
    queue.bytes -= event === undefined ? 0 : bytesOf(event);
    return event;
  };
  const fail = (queue: Queue, error: unknown): void => {
    queue.failure ??= { error };
    queue.events = [];
    queue.head = 0;
    queue.bytes = 0;
    queue.places.clear();
    wake(queue);
  };
  /** Hands over one event. Returns false when the lane cannot go on now. */
  const step = (cluster: Cluster, queue: Queue): boolean => {
    const event = take(queue);
    if (event === undefined) return hasWork(queue);
    try {
      const done = queue.handler.event(event);
      if (done === undefined) return hasWork(queue);
      queue.isBusy = true;
      done
        .catch((error: unknown) => fail(queue, error))
        .finally(() => {
          queue.isBusy = false;
          wake(queue);
          if (hasWork(queue)) enqueue(cluster);
        });
    } catch (error) {
      fail(queue, error);
    }
    return false;
  };
  /** One cluster's turn: its lanes one after the other, beginning with the one that waited longest. */
  const serve = (cluster: Cluster): void => {
    const ends = now() + turnMs;
    let events = 0;
    const served = new Set<Queue>();
    for (let queue = cluster.queues.find(hasWork); queue !== undefined; ) {
      served.add(queue);
      let goesOn = true;
      for (let count = 0; goesOn && count < EVENTS_PER_LOOK; count += 1) {
        goesOn = step(cluster, queue);
        events += 1;
      }
      if (now() >= ends || events >= EVENTS_PER_TURN) break;
      if (!goesOn) queue = cluster.queues.find(hasWork);
    }
    for (const queue of served) {
      const index = cluster.queues.indexOf(queue);
      if (index >= 0) cluster.queues.push(...cluster.queues.splice(index, 1));
      if (queue.failure === undefined) {
        try {
          queue.handler.rested();
        } catch (error) {
          fail(queue, error);
        }
      }
      if (!isFull(queue)) wake(queue);
    }
  };
  const run = async (): Promise<void> => {
    running = true;
    while (ready.length > 0) {
      const ends = now() + SLICE_MS;
      do {
        const cluster = ready.shift();
        if (cluster === undefined) break;
        serve(cluster);
        cluster.isReady = cluster.queues.some(hasWork);
        if (cluster.isReady) ready.push(cluster);
      } while (now() < ends);
      await nextTurn();
    }
    running = false;
  };
  const enqueue = (cluster: Cluster): void => {
    if (cluster.isReady) return;
    cluster.isReady = true;
    ready.push(cluster);
    if (!running) void run();
  };
  /** Lets timers and sockets be served, once for all that wait for it. */
  const rest = async (): Promise<void> => {
    sliceTaken ??= nextTurn().then(() => {
      sliceTaken = undefined;
      for (const cluster of clusters.values()) cluster.pulled = 0;
    });
    await sliceTaken;
  };

  const add = (cluster: Cluster, queue: Queue, event: KvEvent): void => {
    const key = keyOf(event);
    if (event.kind === 'list-start') queue.isListing = true;
    else if (event.kind === 'synced') queue.isListing = false;
    if (key === undefined) queue.places.clear();
    else if (!queue.isListing) {
      const place = queue.places.get(key);
      const index = place === undefined ? -1 : place - queue.base;
      const earlier = index >= queue.head ? queue.events[index] : undefined;
      if (earlier !== undefined) {
        queue.bytes += bytesOf(event) - bytesOf(earlier);
        queue.events[index] = event;
        cluster.coalesced += 1;
        queue.handler.blurred(revisionOf(event));
        return;
      }
      queue.places.set(key, queue.base + queue.events.length);
    }
    queue.bytes += bytesOf(event);
    queue.events.push(event);
  };

  return {
    open(name, handler) {
      const cluster = clusterOf(name);
      const queue: Queue = {
        handler,
        events: [],
        head: 0,
        places: new Map(),
        base: 0,
        bytes: 0,
        isListing: false,
        isBusy: false,
        isClosed: false,
        failure: undefined,
        waiting: new Set(),
      };
      cluster.queues.push(queue);
      return {
        async push(events) {
          throwFailure(queue);
          for (const event of events) add(cluster, queue, event);
          if (hasWork(queue)) enqueue(cluster);
          cluster.pulled += events.length;
          if (cluster.pulled >= PULLED_PER_SLICE) await rest();
          if (isFull(queue)) cluster.paused += 1;
          while (isFull(queue) && !queue.isClosed && queue.failure === undefined) {
            await changed(queue);
          }
          throwFailure(queue);
        },
        queued: () => queue.events.length - queue.head,
        async close() {
          queue.isClosed = true;
          queue.events = [];
          queue.head = 0;
          queue.bytes = 0;
          queue.places.clear();
          while (queue.isBusy) await changed(queue);
          const index = cluster.queues.indexOf(queue);
          if (index >= 0) cluster.queues.splice(index, 1);
          wake(queue);
        },
      };
    },
    status(name) {
      const cluster = clusters.get(name);
      return {
        queued: (cluster?.queues ?? []).reduce(
          (sum, { events, head }) => sum + events.length - head,
          0,
        ),
        coalesced: cluster?.coalesced ?? 0,
        paused: cluster?.paused ?? 0,
      };
    },
    forget(name) {
      const cluster = clusters.get(name);
      if (cluster !== undefined && cluster.queues.length === 0) clusters.delete(name);
    },
  };
}

function throwFailure({ failure }: Queue): void {
  if (failure !== undefined) throw failure.error;
}

function keyOf(event: KvEvent): string | undefined {
  if (event.kind === 'put') return event.pair.key;
  return event.kind === 'delete' ? event.key : undefined;
}

function revisionOf(event: KvEvent): bigint {
  if (event.kind === 'put') return event.pair.modRevision;
  return event.kind === 'delete' ? event.modRevision : 0n;
}

function bytesOf(event: KvEvent): number {
  return event.kind === 'put' ? event.pair.value.length : 0;
}
