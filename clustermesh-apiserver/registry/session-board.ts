/**
 * Which nodes, or machines, have a session at any registry of the cluster. Each registry hangs a key for each of its sessions on a lease of
 * its own: when it dies the keys go, and when a node comes to another registry that one writes the key anew.
 */
import { randomBytes } from 'node:crypto';
import { KvError, type KvEvent, type KvLease, type KvStore } from '../../mesh/kvstore/kvstore.ts';
import { createBell } from '../../mesh/runtime/bell.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { REGISTRY_PREFIX } from '../../mesh/wire/keys.ts';
import { untilAnswered } from '../publish/until-answered.ts';
import { NODE_FACTS_PREFIX } from './node-facts.ts';

/** Where sessions are announced, by node name. */
export const SESSIONS_PREFIX = `${REGISTRY_PREFIX}sessions/`;
/** The same of machines. */
export const MACHINE_SESSIONS_PREFIX = `${REGISTRY_PREFIX}machine-sessions/`;
const LEASE_TTL_SECONDS = 10;
const RETRY_MS = 500;
const IDLE_MS = 60_000;

/** What others say. */
export interface BoardHandlers {
  /** A node has a session at another registry; one that it has here is older. */
  onElsewhere(name: string): void;
  /** A node has no session at another registry any more. */
  onLeft(name: string): void;
  /** What is kept of a node, and since which revision; undefined when it is kept no more. */
  onFacts(name: string, value: string | undefined, modRevision: bigint): void;
  /** What is kept of a node went with all of etcd's data. */
  onFactsLost(name: string): void;
  /** This is another etcd, or one that has lost its data: its revisions begin anew. What it holds is told next. */
  onOtherEtcd?(): void;
  /** Everything is known again after etcd was out of reach. */
  onSynced(): void;
}

/** The registries' common board. */
export interface SessionBoard {
  /** A session of the node is here. */
  announce(name: string): void;
  /** It is not any more. */
  withdraw(name: string): void;
  /** Key of a node's announcement, by whichever registry. */
  keyOf(name: string): string;
  /** Writes what is announced here and tells what others announce, until `signal` aborts. */
  run(handlers: BoardHandlers, signal: AbortSignal): Promise<void>;
}

/** Makes a board with a name of its own for this registry. */
export function createSessionBoard(options: {
  readonly store: KvStore;
  /** Where sessions are announced, and where it is kept what was said in them. Default: those of nodes. */
  readonly prefixes?: { readonly sessions: string; readonly kept: string };
  readonly clock: Clock;
  readonly logger: Logger;
}): SessionBoard {
  const { store, clock, logger } = options;
  const { sessions, kept } = options.prefixes ?? {
    sessions: SESSIONS_PREFIX,
    kept: NODE_FACTS_PREFIX,
  };
  const own = JSON.stringify({ schema: 1, registry: randomBytes(8).toString('hex') });
  const here = new Set<string>();
  /** Nodes whose announcement is still to be written or taken away. */
  const pending = new Set<string>();
  const bell = createBell();
  const keyOf = (name: string): string => sessions + name;
  const touch = (name: string): void => {
    pending.add(name);
    bell.ring();
  };

  const write = async (name: string, lease: KvLease, signal: AbortSignal): Promise<void> => {
    const key = keyOf(name);
    if (here.has(name)) return store.put(key, own, { lease, signal });
    const found = await store.get(key, { signal });
    // Another registry may have it by now.
    if (found?.value.toString('utf8') !== own) return;
    await store.transact(
      { compare: [{ key, modRevision: found.modRevision }], then: [{ kind: 'delete', key }] },
      { signal },
    );
  };
  const writeAll = async (lease: KvLease, signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      await bell.wait(IDLE_MS, clock);
      bell.clear();
      for (const name of [...pending]) {
        if (signal.aborted) return;
        pending.delete(name);
        try {
          await write(name, lease, signal);
        } catch (error) {
          if (signal.aborted) return;
          if (!(error instanceof KvError)) throw error;
          logger.warn({ node: name, err: error }, 'cannot announce a session, will be retried');
          touch(name);
          await clock.sleep(RETRY_MS, signal).catch(() => undefined);
        }
      }
    }
  };
  const follow = async (
    prefix: string,
    onEvent: (event: KvEvent) => void,
    signal: AbortSignal,
  ): Promise<void> => {
    for await (const event of store.watch({ prefix }, { signal })) onEvent(event);
  };

  return {
    announce(name) {
      here.add(name);
      touch(name);
    },
    withdraw(name) {
      if (here.delete(name)) touch(name);
    },
    keyOf,
    async run(handlers, signal) {
      await using lease = await untilAnswered(() => store.lease(LEASE_TTL_SECONDS, { signal }), {
        clock,
        logger,
        signal,
      });
      lease.onLost(() => {
        for (const name of here) touch(name);
      });
      signal.addEventListener('abort', bell.ring, { once: true });
      const onSession = (event: KvEvent): void => {
        if (event.kind === 'synced') handlers.onSynced();
        if (event.kind === 'delete') {
          const name = event.key.slice(sessions.length);
          // Taken away by mistake or by force: it is here all the same.
          if (here.has(name)) touch(name);
          else handlers.onLeft(name);
        }
        if (event.kind !== 'put' || event.pair.value.toString('utf8') === own) return;
        const name = event.pair.key.slice(sessions.length);
        here.delete(name);
        handlers.onElsewhere(name);
      };
      let isOtherEtcd = false;
      const onFacts = (event: KvEvent): void => {
        if (event.kind === 'list-start') {
          isOtherEtcd = event.reason === 'cluster-changed';
          if (isOtherEtcd) handlers.onOtherEtcd?.();
        }
        if (event.kind === 'put') {
          const { key, value, modRevision } = event.pair;
          handlers.onFacts(key.slice(kept.length), value.toString('utf8'), modRevision);
        }
        if (event.kind === 'delete') {
          const name = event.key.slice(kept.length);
          if (event.derived && isOtherEtcd) handlers.onFactsLost(name);
          else handlers.onFacts(name, undefined, event.modRevision);
        }
      };
      await Promise.all([
        writeAll(lease, signal),
        follow(sessions, onSession, signal),
        follow(kept, onFacts, signal),
      ]);
    },
  };
}
