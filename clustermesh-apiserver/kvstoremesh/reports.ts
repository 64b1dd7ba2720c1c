/** Publishes what the mirror knows of each peer's health, for agents that see the peers only through it. */
import { KvError, type KvLease, type KvOp, type KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import { meshPeerKey } from '../../mesh/wire/keys.ts';
import { encodePeerReport } from '../../mesh/wire/peer-report.ts';
import type { LeaderTerm } from './leader.ts';
import { type MirroredPeer, reportOf } from './peer-view.ts';

/** How often each report is written at least: it is the mirror's own sign of life. */
const REPORT_MS = 10_000;
/** How often it is looked for a change. */
const LOOK_MS = 500;
const OPERATIONS_PER_BATCH = 100;

/** Writes the reports until the term is over or `signal` aborts. Peers that have left are deleted. */
export async function publishReports(
  peers: () => readonly MirroredPeer[],
  options: {
    readonly store: KvStore;
    readonly lease: KvLease;
    readonly term: LeaderTerm;
    /** Peers whose report is to be deleted; emptied when that is done. */
    readonly gone: Set<ClusterName>;
    readonly clock: Clock;
    readonly logger: Logger;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { store, lease, term, gone, clock, logger } = options;
  const signal = AbortSignal.any([options.signal, term.over]);
  const last = new Map<ClusterName, { readonly text: string; readonly at: number }>();
  let isFailing = false;

  const due = (): { name: ClusterName; text: string }[] => {
    const now = clock.monotonic();
    return peers().flatMap((peer) => {
      const { name } = peer.source;
      const text = encodePeerReport(reportOf(peer));
      const before = last.get(name);
      const isFresh = before !== undefined && now - before.at < REPORT_MS;
      return isFresh && before.text === text ? [] : [{ name, text }];
    });
  };
  const write = async (operations: readonly KvOp[]): Promise<void> => {
    for (let from = 0; from < operations.length; from += OPERATIONS_PER_BATCH) {
      const then = operations.slice(from, from + OPERATIONS_PER_BATCH);
      const { succeeded } = await store.transact({ compare: [term.fence], then }, { signal });
      if (!succeeded) term.end();
    }
  };

  while (!signal.aborted) {
    const reports = due();
    const leaving = [...gone];
    try {
      await write([
        ...reports.map(({ name, text }): KvOp => {
          return { kind: 'put', key: meshPeerKey(name), value: text, lease };
        }),
        ...leaving.map((name): KvOp => ({ kind: 'delete', key: meshPeerKey(name) })),
      ]);
      for (const { name, text } of reports) last.set(name, { text, at: clock.monotonic() });
      for (const name of leaving) {
        gone.delete(name);
        last.delete(name);
      }
      isFailing = false;
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof KvError)) throw error;
      if (!isFailing) logger.warn({ err: error }, 'reports of peers cannot be written');
      isFailing = true;
    }
    await clock.sleep(LOOK_MS, signal).catch(() => undefined);
  }
}
